"""prototype"""
from dataclasses import dataclass, field
import time
import torch
from torch import Tensor, nn
from tqdm import tqdm

from kprune.calibration import calibration_states
from kprune.pruner import Budget, Clock, Outcome, PruningData, frozen_copy
from kprune.transformer import adapter_for
from kprune.transformer.flops import model_flops
from kprune.transformer.masks import caught
from kprune.transformer.surgery import keep_units, unit_columns
from kprune.weight_tuning import LeastSquares, gram_matrix
from kprune.removal import remove_greedily
from kprune.allocation import allocate, monotone


@dataclass
class Stats:
    squares: LeastSquares
    output_fisher: Tensor
    energies: list  # per batch [B,T]


def keys_of(ids):
    return (ids * (torch.arange(ids.shape[1]) + 1)).sum(1)


@torch.no_grad()
def fisher_pass(adapter, states, objective, temperature, rho, grams=True, start=0, which="student"):
    subs = adapter.sublayers[start:]
    S = [torch.zeros(s.hidden_size, s.hidden_size, dtype=torch.float64) for s in subs]
    sq = [LeastSquares.empty(s.units*s.unit_size, s.hidden_size, adapter.device) for s in subs]
    energies = [[] for _ in subs]
    examples = 0
    feats_all = []
    for st in states:
        feats=[]; handles=[]
        for s in subs:
            if s.units: handles.append(s.projection.register_forward_pre_hook(lambda m,i: feats.append(i[0].detach())))
        with torch.enable_grad(), caught(subs, "output") as outs:
            logits = objective.read(adapter.run(start, getattr(st, which), st.attention_mask, st.batch), st.batch["attention_mask"])
            ids = st.batch["input_ids"] * st.batch["attention_mask"]
            roots = [r.sum() for r in objective.fisher_roots(logits, temperature, keys_of(ids))]
        for h in handles: h.remove()
        grads = [0]*len(outs)
        real = st.real
        e = [0]*len(outs)
        k = [s.units>0 for s in subs]
        for i, r in enumerate(roots):
            gs = torch.autograd.grad(r, outs, retain_graph=i+1<len(roots))
            for j,(g) in enumerate(gs):
                gr=g[real]
                idx=[a for a,b in enumerate(k) if b][j]
                S[idx] += (gr.T@gr).double()
                e[j] = e[j] + g.square().sum(-1)
        for j in range(len(outs)):
            idx=[a for a,b in enumerate(k) if b][j]
            energies[idx].append(e[j])
        feats_all.append(feats if grams else None)
        examples += len(real)
        if grams:
            for j in range(len(outs)):
                idx=[a for a,b in enumerate(k) if b][j]
                f=feats[j][real]
                w = e[j][real]
                # placeholder for mean: use running normalisation by batch-free constant
                sq[idx].add(f, f.new_zeros(len(f), subs[idx].hidden_size)[:, :0] if False else f.new_zeros(len(f), subs[idx].hidden_size), w if rho is None else None)
    return [Stats(q, s/examples, en) for q,s,en in zip(sq,S,energies)], examples


def weights_of(stats, states, rho):
    tot = sum(e[st.real].sum() for e,st in zip(stats.energies, states))
    n = sum(int(st.real.sum()) for st in states)
    mean = tot/n
    return [ (e/mean + rho) if mean>0 else torch.ones_like(e) for e in stats.energies]


@dataclass
class Plus:
    temperature: float = 2.0
    ridge: float = 1e-4
    metric_ridge: float = 0.1   # lambda on S
    rho: float = 0.1
    input_map: float = 0.0      # ridge toward identity; 0 = off
    power: float = 1.0
    realloc: str = "none"
    refisher: int = 0
    select: str = "obs"
    norm_fit: bool = False
    tilt: float = 0.0
    name: str = "kprune_plus"

    @torch.no_grad()
    def prune(self, model, objective, data, budget, verbose=False):
        clock=Clock()
        student, teacher = (adapter_for(m) for m in (frozen_copy(model), frozen_copy(model)))
        with clock("teacher"):
            states = calibration_states(student, data.calibration.batches(), objective)
        total=model_flops(student,budget.sequence_length); remaining=total*(1-budget.flops_reduction)
        with clock("fisher"):
            key=("plus",self.temperature)
            if key not in data.shared:
                data.shared[key]=fisher_pass(student, states, objective, self.temperature, None)
            stats, ex = data.shared[key]
        flops=[s.unit_flops(budget.sequence_length) for s in student.sublayers]
        with clock("curves"):
            k2=("curves",self.temperature,self.ridge,self.metric_ridge)
            if k2 not in data.shared:
                data.shared[k2]=[self.curve(s, st) for s,st in zip(student.sublayers, stats)]
            curves=data.shared[k2]
        L=len(curves)
        def alloc(start, rem, curves):
            cs=[monotone(c)**self.power * (1+self.tilt*(i/(L-1))) for i,c in enumerate(curves)][start:]
            return allocate(cs, flops[start:], rem)
        counts=alloc(0,remaining,curves)
        if verbose: print(counts[0::2],counts[1::2])
        kept_all=[]
        for i,(s,t) in enumerate(zip(student.sublayers, teacher.sublayers)):
            if self.refisher and i and i%self.refisher==0:
                with clock("fisher"):
                    new,_=fisher_pass(student, states, objective, self.temperature, None, grams=self.realloc!="none", start=i)
                    stats=[None]*i+new
                if self.realloc!="none":
                    with clock("curves"):
                        curves=curves[:i]+[self.curve(s2, st) for s2,st in zip(student.sublayers[i:], stats[i:])]
                        c2=alloc(i,remaining,curves)
                        counts=counts[:i]+c2
            w=weights_of(stats[i],states,self.rho)
            if self.input_map:
                with clock("input"):
                    self.fit_input(s,t,states,w)
            with clock("gram"):
                sq=LeastSquares.empty(s.units*s.unit_size,s.hidden_size,student.device)
                ups=[]
                for st,ww in zip(states,w):
                    up=t.update(st.teacher,st.attention_mask)
                    r=st.teacher+up-st.student
                    f=s.features(st.student,st.attention_mask)
                    sq.add(f[st.real],r[st.real],ww[st.real])
                    st.teacher=t.add(st.teacher,up)
                sq=sq.centred_plus() if hasattr(sq,'centred_plus') else sq
            with clock("solve"):
                mean_f=sq.features/sq.weight; mean_r=sq.targets/sq.weight
                c=sq.centred()
                W,_=c.solve(self.ridge)
                factor,_=c.factor(self.ridge)
                inv=torch.cholesky_inverse(factor)
                S=stats[i].output_fisher
                S=S+self.metric_ridge*S.diagonal().mean()*torch.eye(len(S),dtype=S.dtype)
                root=torch.linalg.cholesky(S).T@W
                rem=remove_greedily(inv,root,s.unit_size,keep=counts[i])
                kept=rem.kept(counts[i])
                keep_units(s,kept)
                if counts[i]:
                    cols=unit_columns(kept,s.unit_size)
                    Wk,_=c.of(cols).solve(self.ridge)
                    s.projection.weight.copy_(Wk)
                    s.projection.bias.copy_(mean_r-Wk@mean_f[cols])
                else:
                    s.projection.bias.copy_(mean_r)
            with clock("move"):
                for st in states: st.student=s.run(st.student,st.attention_mask)
                if self.norm_fit:
                    self.fit_norm(s,states,w)
            remaining-=counts[i]*flops[i]
            kept_all.append(kept.tolist())
        return Outcome.of(student.model,kept_all,clock,{})

    def curve(self, s, st):
        c=st.squares.centred()
        # weight normalised by total energy: E_a[f f]; S sums over tokens
        c.gram/=c.weight
        factor,_=c.factor(self.ridge)
        S=st.output_fisher
        S=S+self.metric_ridge*S.diagonal().mean()*torch.eye(len(S),dtype=S.dtype)
        root=torch.linalg.cholesky(S).T@s.projection.weight.double()
        return remove_greedily(torch.cholesky_inverse(factor),root,s.unit_size).errors

    def fit_input(self,s,t,states,w):
        d=s.hidden_size
        sq=LeastSquares.empty(d,d,states[0].student.device)
        for st,ww in zip(states,w):
            sq.add(st.student[st.real],(st.teacher-st.student)[st.real],ww[st.real])
        c=sq.centred()
        if c.energy<=1e-9*sq.gram.diagonal().sum(): return
        M,_=c.solve(self.input_map)   # correction x_T - x_S ≈ M x_S + m0
        m0=(sq.targets-M@sq.features)/sq.weight
        for lin in s.inputs:
            W=lin.weight.double()
            lin.bias.copy_(lin.bias.double()+W@m0)
            lin.weight.copy_(W+W@M)

    def fit_norm(self,s,states,w):
        norm=s.layer.get_submodule(s.names.norm)
        g,b=norm.weight.double(),norm.bias.double()
        n=0;sx=0;sy=0;sxx=0;sxy=0
        for st,ww in zip(states,w):
            x=((st.student-norm.bias)/norm.weight)[st.real].double(); y=st.teacher[st.real].double(); q=ww[st.real].double()[:,None]
            n+=q.sum();sx+=(q*x).sum(0);sy+=(q*y).sum(0);sxx+=(q*x*x).sum(0);sxy+=(q*x*y).sum(0)
        mx,my=sx/n,sy/n
        gg=(sxy/n-mx*my)/(sxx/n-mx*mx)
        bb=my-gg*mx
        for st in states:
            st.student=(st.student-norm.bias)/norm.weight*gg.float()+bb.float()
        norm.weight.copy_(gg);norm.bias.copy_(bb)
