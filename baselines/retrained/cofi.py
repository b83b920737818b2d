"""CoFi (Xia, Zhong, Chen, ACL 2022): L0 masks over heads, neurons and whole blocks, learnt with distillation."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.retrained.distillation import Outputs, hidden_loss, logit_loss, outputs_of
from baselines.retrained.stages import Stages, weights_sha256
from kprune.budgets import FlopsBudget
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.models import ModelView, view_of
from kprune.models.copies import frozen_copy, frozen_shared_copy
from kprune.models.flops import model_flops
from kprune.models.masks import masked
from kprune.models.surgery import keep_masked, scale_units
from kprune.objectives import Objective
from kprune.plan import Plan
from kprune.solve.mask_search import greedy
from kprune.training import Recipe, parameter_groups

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
"""The hard-concrete distribution's (γ, ζ, β of Louizos et al., 2018)."""
BOUND = math.log(100)
"""The masks' logits stay within ±BOUND, as in the authors' code."""
HEADS_AT_FIRST, NEURONS_AT_FIRST = BOUND, 0.0
"""Mean logits of the masks before training, of heads (and blocks) and of neurons, as in the authors' code: 10, which `BOUND`
cuts, and the log odds of its drop rate of 0.5."""
MISSED = 0.05
"""If the expected FLOPs reduction is further than this below the request, a line says that chance chose a part of the units."""


@dataclass(frozen=True)
class CoFi(Method):
    """Learn masks and weights together under a constraint on FLOPs, prune physically, fine-tune the pruned model.

    The masks multiply: a head's or neuron's with its block's. Their expected share of FLOPs is held at a target, which
    rises linearly to the request, by a Lagrangian with two multipliers. The teacher is the fine-tuned model: its logits,
    and four of its layers, each matched to the closest layer of the student through a linear map that starts as the
    identity. While masks are learnt, layers whose FFN is masked are left out of the match; in fine-tuning, none is.

    Departures from the paper: the hidden dimension is left whole (no masks on it), and sparsity is of FLOPs while the
    paper's is of parameters. The student starts as the fine-tuned model, the paper's as the pre-trained one, so that its
    epochs without masks have little to learn. A masked block keeps its output bias. After training, units are kept by
    the probability that their masks are open until the budget is full, so that less than one unit's FLOPs is left of it; if
    the reduction that the masks expect is more than `MISSED` below the request, as after too few steps, a line says so. The
    optimizer is not
    restarted when the masks set in, embeddings are trained, fine-tuning has the pruning's batches, rate and decay, and the
    weights of the last step are taken, not the best on the development set. A training serves one reduction, since the target
    is in the loss.

    As in the authors' code: layers are matched in any order (its version 3; version 4 keeps them in order). Departures from it:
    its version 3 also matches layers whose FFN is masked; its layers' loss counts padding; in regression, its logits' loss is
    zero, being the KL of a softmax over one value, here it is the squared error; and after training, its masks are
    sigmoid(0.8 a / β), those below a rank set to 0, here they are Louizos' sigmoid(a) (ζ − γ) + γ, cut to 0 and 1.

    Attributes:
        recipe: of the pruning stage (the paper: 20 epochs, 100 on small tasks; 2e-5, batches of 32; on SQuAD 3e-5 and 16).
            Fine-tuning has the same learning rate (the paper: 1e-5 to 3e-5).
        unmasked_epochs: distillation alone before the masks set in (the paper: 1 on large tasks, 4 on small ones).
        warmup_epochs: in which the target rises (the paper: 2 on large tasks, 20 on small ones).
        finetuning_epochs: of the pruned model (the paper: 20).
        mask_lr: of the masks and multipliers (0.01 in the authors' scripts).
        logit_weight: λ, the weight of the logits' loss; 1 − λ is that of the layers' (the paper tries 0.1, 0.3, 0.5).
        temperature: of the logits' loss (2 in the authors' scripts).
        max_examples: cap on the training examples, None for all.
        bf16: linear layers in bfloat16 while training.
    """

    recipe: Recipe = Recipe(epochs=20, lr=2e-5, warmup=0.0, weight_decay=0.0)
    unmasked_epochs: float = 1.0
    warmup_epochs: float = 2.0
    finetuning_epochs: int = 20
    mask_lr: float = 0.01
    logit_weight: float = 0.1
    temperature: float = 2.0
    max_examples: int | None = None
    bf16: bool = False
    name: str = "cofi"

    needs = frozenset({"training"})
    budgets = frozenset({"flops"})

    def prune(self, job: Job) -> Outcome:
        """Train a masked copy of the job's model, prune it by its masks, and fine-tune it."""
        model, objective, data, budget = job.model, job.objective, job.data, job.budget
        clock, settings = Clock(), (self, budget)
        stages = Stages(self, data, self.max_examples, clock)
        torch.manual_seed(data.seed)
        student = Student(frozen_copy(model).requires_grad_(True))
        distil = self.distillation(frozen_shared_copy(model), objective)
        with_masks = parameter_groups(student.weights, self.recipe) + student.masks.groups(self.mask_lr)
        stages.train(
            "pruning",
            student,
            self.pruning_losses(student, distil, budget),
            self.recipe,
            stages.state_file("cofi-pruning", settings),
            with_masks,
        )
        with clock("extraction"):
            expected = expected_reduction(student.masks, view_of(student.model), budget).item()
            kept = extract(student.model, student.masks, budget)
        if expected < budget.flops_reduction - MISSED:
            print(
                f"cofi: the masks came to {expected:.1%} of FLOPs in place of {budget.flops_reduction:.1%}, so that chance "
                "chose a part of the units: raise recipe.epochs or mask_lr"
            )
        if self.finetuning_epochs:
            recipe = replace(self.recipe, epochs=self.finetuning_epochs)
            state = stages.state_file("cofi-fine_tuning", (*settings, weights_sha256(student)))
            stages.train(
                "fine_tuning",
                student,
                lambda batch, epochs: iter([distil(student, batch, None)]),
                recipe,
                state,
                parameter_groups(student.weights, recipe),
            )
        details = {"expected_flops_reduction": expected, **stages.on_record()}
        return Outcome(
            student.model.eval().requires_grad_(True), Plan.of(view_of(model), kept), dict(clock.seconds), details
        )

    def pruning_losses(self, student: "Student", distil: Callable, budget: FlopsBudget) -> Callable:
        """Return the losses: distillation through sampled masks and the Lagrangian of the constraint."""
        view, masks = view_of(student.model), student.masks

        def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
            progress = (epochs - self.unmasked_epochs) / max(self.warmup_epochs, 1e-9)
            if progress < 0:
                yield distil(student, batch, None)
                return
            masks.bound()
            sampled = masks.sample()
            with masked(view, sampled):
                distilled = distil(student, batch, sampled)
            excess = expected_reduction(masks, view, budget) - budget.flops_reduction * min(1.0, progress)
            yield distilled + masks.multipliers[0] * excess + masks.multipliers[1] * excess**2

        return losses

    def distillation(self, teacher: nn.Module, objective: Objective) -> Callable:
        """Return the loss of a student on a batch, given its masks (None if it has none)."""

        def loss(student: "Student", batch: dict[str, Tensor], masks: Sequence[Tensor] | None) -> Tensor:
            with torch.no_grad():
                target = outputs_of(teacher, batch, objective, self.bf16)
            outputs = outputs_of(student.model, batch, objective, self.bf16)
            present = student.present(masks, len(outputs.hidden) - 1)
            layers = layer_loss(student.transform, outputs, target, present)
            logits = logit_loss(objective, outputs, target, self.temperature)
            return self.logit_weight * logits + (1 - self.logit_weight) * layers

        return loss


def layer_loss(transform: nn.Module, student: Outputs, teacher: Outputs, present: Sequence[bool]) -> Tensor:
    """Return the loss of four evenly spread layers of the teacher, each to the closest of the student's layers that are present."""
    count = len(teacher.hidden) - 1
    layers = [transform(h) for h, there in zip(student.hidden[1:], present, strict=True) if there or not any(present)]
    chosen = sorted({math.ceil(count * quarter / 4) for quarter in (1, 2, 3, 4)})
    distances = [torch.stack([hidden_loss(h, teacher.hidden[i], student.real) for h in layers]) for i in chosen]
    return sum(row.min() for row in distances)


class Student(nn.Module):
    """What CoFi trains: the model, the map from its hidden states to the teacher's, and the masks."""

    def __init__(self, model: nn.Module):
        super().__init__()
        view = view_of(model)
        self.model = model
        size = view.blocks[0].hidden_size
        self.transform = nn.Linear(size, size)
        nn.init.eye_(self.transform.weight)
        nn.init.zeros_(self.transform.bias)
        self.kinds = [block.kind for block in view.blocks]
        self.masks = L0Masks([block.units for block in view.blocks], self.kinds)
        self.to(model.device, model.dtype)

    def present(self, masks: Sequence[Tensor] | None, layers: int) -> list[bool]:
        """Return for each layer whether the masks leave a neuron in its FFN; True for all layers without masks."""
        if masks is None:
            return [True] * layers
        return [bool((mask > 0).any()) for mask, kind in zip(masks, self.kinds, strict=True) if kind == "neurons"]

    @property
    def weights(self) -> nn.Module:
        return nn.ModuleList([self.model, self.transform])


class L0Masks(nn.Module):
    """Hard-concrete masks of units and blocks, and the constraint's multipliers. A unit's own mask is multiplied by its block's.

    Args:
        sizes: units of each block.
        kinds: what the units of each block are, "heads" or "neurons".
    """

    def __init__(self, sizes: Sequence[int], kinds: Sequence[str]):
        super().__init__()
        means = {"heads": HEADS_AT_FIRST, "neurons": NEURONS_AT_FIRST}
        pairs = zip(sizes, kinds, strict=True)
        self.units = nn.ParameterList(torch.empty(n).normal_(means[kind], 0.01) for n, kind in pairs)
        self.blocks = nn.Parameter(torch.empty(len(sizes)).normal_(HEADS_AT_FIRST, 0.01))
        self.multipliers = nn.Parameter(torch.zeros(2))

    def sample(self) -> list[Tensor]:
        """Return masks [units] per block in [0, 1], drawn anew."""
        return self._products(lambda a: _stretched((a + _logistic(a)) / TEMPERATURE))

    def deterministic(self) -> list[Tensor]:
        """Return masks without the noise, as after training."""
        return self._products(_stretched)

    def log_open(self) -> list[Tensor]:
        """Return the log probability that a unit's mask is not zero: [units] per block."""
        shift = TEMPERATURE * math.log(-LOW / HIGH)
        return [F.logsigmoid(s - shift) + F.logsigmoid(u - shift) for s, u in zip(self.blocks, self.units, strict=True)]

    @torch.no_grad()
    def bound(self) -> None:
        for logits in (*self.units, self.blocks):
            logits.clamp_(-BOUND, BOUND)

    def groups(self, lr: float) -> list[dict]:
        """Return the optimizer's groups: masks go down the loss, multipliers up."""
        common = {"lr": lr, "weight_decay": 0.0, "free": True}
        return [
            {"params": [*self.units, self.blocks], **common},
            {"params": [self.multipliers], "maximize": True, **common},
        ]

    def _products(self, mask: Callable[[Tensor], Tensor]) -> list[Tensor]:
        whole = mask(self.blocks)
        return [whole[i] * mask(units) for i, units in enumerate(self.units)]


def _logistic(like: Tensor) -> Tensor:
    uniform = torch.rand_like(like).clamp(1e-6, 1 - 1e-6)
    return uniform.log() - (1 - uniform).log()


def _stretched(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


def expected_reduction(masks: L0Masks, view: ModelView, budget: FlopsBudget) -> Tensor:
    """Return the share of FLOPs that the masks remove in expectation, differentiable."""
    flops = [s.unit_flops(budget.sequence_length) for s in view.blocks]
    left = sum(p.exp().sum() * f for p, f in zip(masks.log_open(), flops, strict=True))
    return 1 - left / model_flops(view, budget.sequence_length)


@torch.no_grad()
def extract(model: nn.Module, masks: L0Masks, budget: FlopsBudget) -> list[list[int]]:
    """Prune the model in place to the budget, its units by the probability of an open mask.

    A kept unit's deterministic mask becomes a factor of its columns of the output projection. If that mask is 0, and the unit is
    kept only because the budget has room for it, the factor is the probability that its mask is open. Training saw the unit in
    that share of the draws: with 0, it would compute nothing, and with 1, more than the other units have learnt to expect.

    Returns:
        indices of the kept units per block.
    """
    view = view_of(model)
    # Masks at the bound are equal: chance must decide between them, not their index.
    log_open = masks.log_open()
    jittered = [p + 1e-6 * torch.rand_like(p) for p in log_open]
    kept = greedy(jittered, list(budget.costs(view).values()), budget.limit(view))
    for block, mask, p in zip(view.blocks, masks.deterministic(), log_open, strict=True):
        if block.units:
            scale_units(block, torch.where(mask > 0, mask, p.exp()))
    return keep_masked(view.blocks, kept)
