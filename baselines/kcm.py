"""KCM: Nova, Dai, Schuurmans, "Gradient-Free Structured Pruning with Unlabeled Data" (ICML 2023, arXiv 2303.04185)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from baselines.mask_tuning import prune_and_tune, search_with_teacher
from kprune.budgets import UnitCost
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.data import CalibrationSet
from kprune.errors import UserError
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.flops import model_flops
from kprune.models.inputs import on_device
from kprune.models.surgery import output_weight
from kprune.solve.mask_search import BUDGET_ROUNDING, greedy


@dataclass(frozen=True)
class KCM(Method):
    """Rank FFN neurons by representative (R2) times data-driven (D2) scores, and keep the highest; heads stay.

    It needs neither gradients nor labels.

    The best neurons over all layers are kept, until less than one neuron's FLOPs is left of the budget. Then the masks are
    scaled by layer-wise least squares as in Kwon et al. (`baselines/mask_tuning.py`), without rearrangement.

    Not verified against the paper: α = 0.01; the norm of R2's relative change (Frobenius here); D2's statistic (root of
    summed squares here) and its normalisation (by the layer's mean here); the scaling's teacher (the model pruned to √c
    by the same ranking, c the share of FLOPs kept, as in Kwon et al.) and its tokens in the last FFN (those that the
    head reads, as in Kwon et al.).

    Attributes:
        sigma: width of R2's Gaussian kernel.
        alpha: relative change at which R2's iteration stops.
        damping, max_scale: of the scaling, as in Kwon et al.
    """

    sigma: float = 1.0
    alpha: float = 0.01
    damping: float = 1.0
    max_scale: float = 10.0
    name: str = "kcm"

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """Return the neurons' share of FLOPs: no head is ever removed."""
        view = view_of(model)
        ffn = sum(s.units * s.unit_flops(sequence_length) for s in view.of_kind("neurons"))
        return ffn / model_flops(view, sequence_length)

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model.

        Raises:
            UserError: the model's family is not supported, its activations are not finite, or the budget is beyond
                `reach`.
        """
        clock, dense, data = Clock(), view_of(frozen_copy(job.model)), job.data
        ffns = dense.of_kind("neurons")

        def rank_rows(clock: Clock) -> list[tuple[Tensor, int]]:
            with clock("r2"):
                bar = tqdm(ffns, desc="R2", unit="layer", disable=None)
                return [representative_ranking(output_rows(ffn), self.sigma, self.alpha) for ffn in bar]

        def rank_activations(clock: Clock) -> list[Tensor]:
            with clock("d2"):
                return data_driven_ranking(dense, data.calibration)

        r2 = data.once(("kcm", "r2", self.sigma, self.alpha), clock, rank_rows)
        d2 = data.once(("kcm", "d2"), clock, rank_activations)
        with clock("mask_search"):
            scores = [r * d for (r, _), d in zip(r2, d2, strict=True)]
            masks, teacher_masks = search_with_teacher(partial(self.search, dense, scores), dense, job.budget)
        with clock("scaling"):
            kept, tuning = prune_and_tune(
                dense, masks, teacher_masks, data.calibration, job.objective, self.tunes, self.damping, self.max_scale
            )
        ranking = {"sigma": self.sigma, "alpha": self.alpha, "iterations": [count for _, count in r2]}
        return Outcome.of(dense, kept, clock, {"r2": ranking, **tuning.details()})

    @staticmethod
    def tunes(block: Block) -> bool:
        """Tell whether a block's masks are scaled: only those of neurons are, since no head is removed."""
        return block.kind == "neurons"

    @staticmethod
    def search(view: ModelView, scores: list[Tensor], costs: Mapping[str, UnitCost], limit: float) -> list[Tensor]:
        """Return masks [units] (bool) of all blocks, which keep all heads and, of the neurons that then fit, those of highest score.

        Raises:
            UserError: all heads together cost more than `limit`.
        """
        spare = limit * (1 + BUDGET_ROUNDING) - sum(costs[s.name].of(s.units, s.units) for s in view.of_kind("heads"))
        if spare < 0:
            raise UserError("the heads alone, which this method keeps, take more than the budget leaves: ask for less")
        ffns = view.of_kind("neurons")
        kept = iter(greedy(scores, [costs[ffn.name] for ffn in ffns], spare))
        return [
            next(kept) if block.kind == "neurons" else torch.ones(block.units, dtype=torch.bool)
            for block in view.blocks
        ]


def output_rows(ffn: Block) -> Tensor:
    """Return the rows of W2ᵀ, one per neuron: [units, d]."""
    return output_weight(ffn).T if ffn.units else torch.zeros(0, ffn.hidden_size)


@torch.no_grad()
def representative_ranking(rows: Tensor, sigma: float, alpha: float) -> tuple[Tensor, int]:
    """Rank by R2: how much each row is needed to represent all rows in the space of a Gaussian kernel.

    `K_ij = exp(−‖x_i − x_j‖² / σ²)`, C starts at 1/N and is updated until ‖C' − C‖ ≤ α ‖C‖ (Frobenius); the score is
    diag(C). For distinct rows the limit is C = I, which ranks nothing: the scores differ because the iteration is stopped
    early. An update costs 2 N³ FLOPs, in the rows' precision.

    Args:
        rows: x, [N, d].

    Returns:
        scores [N] in float64 on the CPU, and the number of updates.
    """
    kernel = gaussian_kernel(rows, sigma)
    c, count, change = torch.full_like(kernel, 1 / max(len(rows), 1)), 0, float("inf")
    while len(rows) and change > alpha:
        updated = convex_update(kernel, c)
        change = float((updated - c).norm() / c.norm())
        c, count = updated, count + 1
    return c.diagonal().double().cpu(), count


def gaussian_kernel(rows: Tensor, sigma: float) -> Tensor:
    """Return K [N, N] in the rows' precision; distances are taken in float64, where close rows do not cancel."""
    x = rows.double()
    squares = x.square().sum(dim=1)
    distances = (squares[:, None] + squares - 2 * x @ x.T).clamp_min_(0).fill_diagonal_(0)
    return distances.div_(-(sigma**2)).exp_().to(rows.dtype)


def convex_update(kernel: Tensor, c: Tensor) -> Tensor:
    """Return C ∘ sqrt(K / (K C)), the multiplicative update that lowers ‖φ(X) − φ(X) C‖² and keeps C from going negative.

    If K and K C underflow to zero, C goes to zero.
    """
    ratio = (kernel @ c).clamp_min_(torch.finfo(c.dtype).tiny).reciprocal_().mul_(kernel)
    return ratio.sqrt_().mul_(c)


@torch.no_grad()
def data_driven_ranking(view: ModelView, calibration: CalibrationSet) -> list[Tensor]:
    """Rank by D2: `sqrt(Σ_t g_i(t)²)` of every neuron's activation g_i over real tokens, over its mean in the layer.

    Returns:
        per FFN, [units] in float64 on the CPU.

    Raises:
        UserError: an activation is not finite.
    """
    energy = {
        ffn.name: torch.zeros(ffn.units, dtype=torch.float64, device=view.device) for ffn in view.of_kind("neurons")
    }
    for batch in tqdm(calibration.batches(), desc="D2", unit="batch", disable=None):
        batch = on_device(batch, view.device)
        hidden, context = view.embed(batch)
        real = batch["attention_mask"].bool()
        for block in view.blocks:
            hidden, features = block.run_with_features(hidden, context)
            if block.kind == "neurons" and features is not None:
                energy[block.name] += features[real].square().sum(dim=0).double()
    if not all(torch.isfinite(e).all() for e in energy.values()):
        raise UserError("activations hold NaN or infinity: check the checkpoint's weights")
    norms = [e.sqrt().cpu() for e in energy.values()]
    return [norm / norm.mean().clamp_min(torch.finfo(norm.dtype).tiny) for norm in norms]
