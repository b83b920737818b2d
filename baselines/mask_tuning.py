"""Mask tuning: the kept units' masks as real numbers, by least squares, layer by layer (Kwon et al. 2022, third stage).

KCM's scaling is the same. The masks are folded into the output projections as they are found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from kprune.objectives import Objective
from kprune.pruner import CalibrationSet
from kprune.transformer.adapter import Adapter, Sublayer
from kprune.transformer.surgery import scale_units
from kprune.weight_tuning import LeastSquares


@dataclass
class Tuning:
    """What came out.

    scales: the mask values of every sublayer's kept units, [units] in float64; None where they stayed at 1.
    stopped: why and where the tuning ended before the top; None where it did not.
    """

    scales: list[Tensor | None]
    stopped: str | None

    def details(self) -> dict[str, Any]:
        """For the record of a result."""
        largest = [None if s is None else s.abs().max().item() for s in self.scales]
        return {"mask_tuning_stopped": self.stopped, "largest_scale": largest}


@dataclass
class _State:
    """A calibration batch on its way up: inputs [B, T, d] of the sublayer at hand, real and read tokens [B, T] (bool)."""

    attention_mask: Tensor | None
    student: Tensor
    teacher: Tensor
    real: Tensor
    read: Tensor


@torch.no_grad()
def tune_masks(
    student: Adapter,
    teacher: Adapter,
    calibration: CalibrationSet,
    objective: Objective,
    tunes: Callable[[Sublayer], bool],
    damping: float = 1.0,
    max_scale: float = 10.0,
) -> Tuning:
    """Fit every sublayer's mask values so that its output with the residual matches the teacher's; fold them in.

    Both models' states move up together, the student's through what is tuned already. An MHA is fitted with an
    intercept, which is dropped; the last FFN on the tokens that the head reads (for a classifier, the first). Where the
    solver fails or a value is larger than `max_scale`, this and all further sublayers keep their masks at 1.

    Args:
        student, teacher: physically pruned models with the same embeddings; the student's projections are changed.
        tunes: says which sublayers are tuned.
    """
    scales: list[Tensor | None] = [None] * len(student.sublayers)
    states = _states(student, calibration, objective)
    pairs = list(zip(student.sublayers, teacher.sublayers, strict=True))
    for index, (mine, theirs) in enumerate(tqdm(pairs, desc="mask tuning", unit="sublayer", disable=None)):
        squares = None
        if mine.units and tunes(mine):
            squares = LeastSquares.empty(
                mine.units * mine.unit_size + (mine.kind == "mha"), mine.hidden_size, student.device
            )
        for state in states:
            update = theirs.update(state.teacher, state.attention_mask)
            if squares:
                residual = state.teacher + update - state.student - mine.projection.bias
                tokens = state.read if index == len(pairs) - 1 else state.real
                features = mine.features(state.student, state.attention_mask)[tokens]
                if mine.kind == "mha":
                    features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
                squares.add(features, residual[tokens])
            state.teacher = theirs.add(state.teacher, update)
        if squares:
            gram, cross = normal_equations(squares, mine)
            values, failure = solve_scales(gram, cross, damping)
            values = values[: mine.units]
            if not failure and not values.abs().max() <= max_scale:
                failure = f"a mask value of {values.abs().max():.4g} is larger than {max_scale:g}"
            if failure:
                return Tuning(scales, f"{mine.kind} of layer {mine.index}: {failure}")
            scales[index] = values
            scale_units(mine, values)
        for state in states:
            state.student = mine.run(state.student, state.attention_mask)
    return Tuning(scales, None)


def _states(adapter: Adapter, calibration: CalibrationSet, objective: Objective) -> list[_State]:
    states = []
    for batch in calibration.batches():
        batch = {key: value.to(adapter.device) for key, value in batch.items()}
        hidden, attention_mask = adapter.embed(batch)
        real = batch["attention_mask"].bool()
        states.append(_State(attention_mask, hidden, hidden, real, objective.read_tokens(batch["attention_mask"])))
    return states


def normal_equations(squares: LeastSquares, sublayer: Sublayer) -> tuple[Tensor, Tensor]:
    """AᵀA [m, m] and Aᵀb [m] of `min ‖R − Σ_i m_i F_i W_iᵀ‖_F²` over one number m_i per unit, in float64.

    Column i of A is F_i W_iᵀ over all tokens and hidden dimensions, so its products with other columns are sums over
    unit blocks of FᵀF ∘ WᵀW. One feature more than the units have is the constant 1 of an intercept, which adds the
    same number to all hidden dimensions; it is the last unknown then.

    Args:
        squares: FᵀF and FᵀR of the units' features.
    """
    weight = sublayer.projection.weight.double()
    owner = torch.arange(sublayer.units, device=weight.device).repeat_interleave(sublayer.unit_size)
    if len(squares.gram) > len(owner):
        weight = torch.cat([weight, weight.new_ones(len(weight), 1)], dim=1)
        owner = torch.cat([owner, owner.new_tensor([sublayer.units])])
    unknowns = int(owner[-1]) + 1
    by_dimension = squares.gram * (weight.T @ weight)
    rows = by_dimension.new_zeros(unknowns, len(owner)).index_add_(0, owner, by_dimension)
    gram = rows.new_zeros(unknowns, unknowns).index_add_(1, owner, rows)
    cross = rows.new_zeros(unknowns).index_add_(0, owner, (squares.cross * weight.T).sum(dim=1))
    return gram, cross


def solve_scales(gram: Tensor, cross: Tensor, damping: float) -> tuple[Tensor, str | None]:
    """m, of which x = m − 1 minimises `‖gram x − (cross − gram 1)‖² + damping² ‖x‖²`.

    This is what the authors run LSMR on, with its tolerances of 1e-6 and in float32. Here it is solved exactly in
    float64: gram is symmetric, so x = Λ / (Λ² + δ²) in its eigenbasis, which is the real part of (gram − iδ)⁻¹ applied
    to the right side, without squaring the condition number.

    Returns:
        m, and what went wrong: the system is singular or not finite.
    """
    shifted = gram - 1j * damping * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    right = (cross - gram.sum(dim=1)).to(shifted.dtype)
    solution, singular = torch.linalg.solve_ex(shifted, right)
    failed = bool(singular) or not torch.isfinite(solution).all()
    return solution.real + 1, "the least squares has no finite solution" if failed else None
