"""Mask tuning: real-valued masks of the kept units by least squares, block by block (Kwon et al. 2022, third stage).

KCM scales its neurons in the same way. The masks of a block are folded into its output projection before the next block is tuned.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from kprune.budgets import Budget, UnitCost
from kprune.budgets.costs import whole_cost
from kprune.data import CalibrationSet
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.surgery import keep_masked, output_weight, scale_units
from kprune.objectives import Objective
from kprune.solve.least_squares import LeastSquares
from kprune.streams import CalibrationState, calibration_states


@dataclass
class Tuning:
    """The result of mask tuning.

    scales: the mask values of every block's kept units, [units] in float64; None if they stayed at 1.
    stopped: why and where the tuning ended before the top; None if it did not.
    """

    scales: list[Tensor | None]
    stopped: str | None

    def details(self) -> dict[str, Any]:
        """Return what goes on record."""
        largest = [None if s is None else s.abs().max().item() for s in self.scales]
        return {"mask_tuning_stopped": self.stopped, "largest_scale": largest}


def search_with_teacher(
    search: Callable[[Mapping[str, UnitCost], float], list[Tensor]], view: ModelView, budget: Budget
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the masks within a budget, and the masks of the teacher against which they are tuned.

    If the budget keeps the share c of the cost of all units, the teacher keeps √c, as in Kwon et al.'s code.

    Args:
        search: takes the blocks' costs by name and what the units kept may cost, gives masks [units] (bool) per block.
    """
    costs, limit = budget.costs(view), budget.limit(view)
    constraint = limit / whole_cost(view, costs)
    return search(costs, limit), search(costs, limit / sqrt(constraint))


def prune_and_tune(
    dense: ModelView,
    masks: Sequence[Tensor],
    teacher_masks: Sequence[Tensor],
    calibration: CalibrationSet,
    objective: Objective,
    tunes: Callable[[Block], bool],
    damping: float,
    max_scale: float,
) -> tuple[list[list[int]], Tuning]:
    """Remove what `masks` [units] (bool) leave out, in place, and tune the rest against a copy pruned by `teacher_masks`.

    Returns:
        indices of the kept units per block, and the result of `tune_masks`.
    """
    teacher = view_of(frozen_copy(dense.model))
    keep_masked(teacher.blocks, teacher_masks)
    kept = keep_masked(dense.blocks, masks)
    return kept, tune_masks(dense, teacher, calibration, objective, tunes, damping, max_scale)


@torch.no_grad()
def tune_masks(
    student: ModelView,
    teacher: ModelView,
    calibration: CalibrationSet,
    objective: Objective,
    tunes: Callable[[Block], bool],
    damping: float = 1.0,
    max_scale: float = 10.0,
) -> Tuning:
    """Fit every block's mask values so that its output, residual connection included, matches the teacher's, and fold them in.

    Both models' states move up together, the student's through the blocks that are tuned already. The last FFN is fitted on
    the tokens that the head reads (for a classifier, the first). If the solver fails or a value is larger than
    `max_scale`, this and all further blocks keep their masks at 1.

    Args:
        student, teacher: physically pruned models with the same embeddings; the student's projections are changed.
        tunes: says which blocks are tuned.
    """
    scales: list[Tensor | None] = [None] * len(student.blocks)
    states = calibration_states(student, calibration.batches())
    pairs = list(zip(student.blocks, teacher.blocks, strict=True))
    for index, (mine, theirs) in enumerate(tqdm(pairs, desc="mask tuning", unit="block", disable=None)):
        if mine.units and tunes(mine):
            is_last = index == len(pairs) - 1
            last = student.family.reads_last_token
            tokens = [objective.read_tokens(s.batch["attention_mask"], last) if is_last else s.real for s in states]
            squares = teacher_residuals(mine, theirs, states, tokens)
            values, failure = mask_values(squares, mine, damping, max_scale)
            if failure:
                return Tuning(scales, f"{mine.kind} of layer {mine.layer}: {failure}")
            scales[index] = values
            scale_units(mine, values)
        else:
            for state in states:
                state.teacher = theirs.run(state.teacher, state.context)
        for state in states:
            state.student = mine.run(state.student, state.context)
    return Tuning(scales, None)


def teacher_residuals(
    student: Block, teacher: Block, states: Sequence[CalibrationState], tokens: Sequence[Tensor]
) -> LeastSquares:
    """Return FᵀF and FᵀR, and move the teacher's states up.

    F are the student's features. R is the update with which the student's stream becomes the teacher's (`Block.wanted_update`),
    less the output bias. An attention has an intercept, one more feature that is 1; it is dropped from the solution.

    Args:
        tokens: the tokens to fit, [B, T] (bool) per state.
    """
    intercept = student.kind == "heads"
    columns = student.columns + intercept
    squares = LeastSquares.empty(columns, student.hidden_size, states[0].student.device)
    for state, counted in zip(states, tokens, strict=True):
        update = teacher.update(state.teacher, state.context)
        moved = teacher.moved(state.teacher, update)
        residual = student.wanted_update(state.student, moved, update)
        if student.bias() is not None:
            residual = residual - student.bias()
        features = student.features(state.student, state.context)[counted]
        if intercept:
            features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        squares.add(features, residual[counted])
        state.teacher = teacher.norm_after(moved)
    return squares


def mask_values(squares: LeastSquares, block: Block, damping: float, max_scale: float) -> tuple[Tensor, str | None]:
    """Return the fitted mask values [units] of a block in float64, and what is wrong with them, if anything."""
    gram, cross = normal_equations(squares, block)
    values, failure = solve_scales(gram, cross, damping)
    values = values[: block.units]
    if not failure and not values.abs().max() <= max_scale:
        failure = f"a mask value of {values.abs().max():.4g} is larger than {max_scale:g}"
    return values, failure


def normal_equations(squares: LeastSquares, block: Block) -> tuple[Tensor, Tensor]:
    """Return AᵀA [m, m] and Aᵀb [m] of `min ‖R − Σ_i m_i F_i W_iᵀ‖_F²` over one number m_i per unit, in float64.

    Column i of A is F_i W_iᵀ over all tokens and hidden dimensions, so its products with other columns are sums over
    unit blocks of FᵀF ∘ WᵀW. One feature more than the units have is the constant 1 of an intercept, which adds the
    same number to all hidden dimensions; it is the last unknown then.

    Args:
        squares: FᵀF and FᵀR of the units' features.
    """
    weight = output_weight(block).double()
    owner = torch.arange(block.units, device=weight.device).repeat_interleave(block.width)
    if len(squares.lower) > len(owner):
        weight = torch.cat([weight, weight.new_ones(len(weight), 1)], dim=1)
        owner = torch.cat([owner, owner.new_tensor([block.units])])
    unknowns = int(owner[-1]) + 1
    by_dimension = squares.gram * (weight.T @ weight)
    rows = by_dimension.new_zeros(unknowns, len(owner)).index_add_(0, owner, by_dimension)
    gram = rows.new_zeros(unknowns, unknowns).index_add_(1, owner, rows)
    cross = rows.new_zeros(unknowns).index_add_(0, owner, (squares.cross * weight.T).sum(dim=1))
    return gram, cross


def solve_scales(gram: Tensor, cross: Tensor, damping: float) -> tuple[Tensor, str | None]:
    """Return m such that x = m − 1 minimises `‖gram x − (cross − gram 1)‖² + damping² ‖x‖²`.

    This is what the authors run LSMR on, with its tolerances of 1e-6 and in float32. Here it is solved exactly in
    float64: gram is symmetric, so x = Λ / (Λ² + δ²) in its eigenbasis, which is the real part of (gram − iδ)⁻¹ applied
    to the right side, without squaring the condition number. A single unknown is damped, too (in their code, it is not).

    Returns:
        m, and what went wrong: the system is singular or not finite.
    """
    shifted = gram - 1j * damping * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    right = (cross - gram.sum(dim=1)).to(shifted.dtype)
    solution, singular = torch.linalg.solve_ex(shifted, right)
    failed = bool(singular) or not torch.isfinite(solution).all()
    return solution.real + 1, "the least squares has no finite solution" if failed else None
