"""K-prune+: widths from the teacher's Fisher, removal with compensation, a refit of each block (docs/notes/kprune_plus.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kprune import processes
from kprune.clock import Clock
from kprune.contract import Job, Outcome
from kprune.memory import pass_tokens, release_freed_memory
from kprune.methods.kprune_plus.allocation import allocate_units
from kprune.methods.kprune_plus.first_pass import FirstPass
from kprune.methods.kprune_plus.fisher import OutputFisher, metric_root
from kprune.methods.kprune_plus.input_map import fold_map
from kprune.methods.kprune_plus.refit import descend, explained, own_parameters
from kprune.methods.kprune_plus.settings import decided
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import copied_blocks, frozen_shared_copy
from kprune.models.offload import place_for_layers
from kprune.models.surgery import keep_units, output_weight, unit_columns
from kprune.solve.least_squares import LeastSquares
from kprune.solve.removal import remove_greedily
from kprune.storage import storage_at
from kprune.streams import CalibrationState, calibration_states

TOKENS = 1024
"""Tokens of a step of the refit: twenty steps an epoch at 20,000 tokens."""


@dataclass(frozen=True)
class KPrunePlus(FirstPass):
    """Decide each block's width by error curves of the teacher's Fisher, then prune and fit block by block, bottom to top.

    The first pass takes each block of the teacher apart for its error curve. The order of removal that it finds is not used again: the walk
    chooses among all units of a block anew, by the student's own features. The constructor's arguments are those of `Settings`.
    """

    name: str = "kprune_plus"

    uniform = True
    several_processes = True
    version = 4

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model.

        Raises:
            UserError: the model's family is not supported, or its features are not finite.
        """
        return self.resolved(view_of(job.model)).walk(job)

    @torch.no_grad()
    def walk(self, job: Job) -> Outcome:
        """Measure the teacher, allocate, and walk from the bottom block to the top; the settings are `resolved`."""
        clock = Clock()
        device = place_for_layers(self.layers_on, job.model.device)
        teacher = view_of(frozen_shared_copy(job.model), device)
        storage = storage_at(self.states, teacher.device)
        with clock("embeddings"):
            states = calibration_states(teacher, job.data.calibration.steps(self.tokens_at_once(teacher)), storage)
        settings = self.temperature, self.ridge, self.metric_ridge, self.clip, self.states, device
        fishers, curves = job.data.once(
            ("kprune_plus", *settings), clock, lambda own: self.first_pass(teacher, states, job.objective, own, storage)
        )
        counts, details = self.allocation(job, teacher, curves, clock)
        release_freed_memory()
        student = view_of(frozen_shared_copy(job.model), device)
        kept_units: list[list[int]] = []
        ridges: list[float | None] = []
        rows = zip(copied_blocks(student), teacher.blocks_at_work(), fishers, counts, strict=True)
        below: OutputFisher | None = None
        ridge: float | None
        for block, original, fisher, count in self.bar(rows, "K-prune+", len(counts)):
            if count == block.units and (below is None or not decided(self.tune)):
                # No unit is removed from this block; and none was removed below, or this block does not make up for those.
                with clock("student"):
                    self.pass_through(block, original, states, same=below is None)
                kept, ridge = list(range(count)), None
            else:
                kept, ridge = self.prune_block(block, original, states, fisher, below, count, clock)
                below = fisher
            kept_units.append(kept)
            ridges.append(ridge)
        return Outcome.of(student, kept_units, clock, {"ridge": ridges, **details})

    def tokens_at_once(self, teacher: ModelView) -> int:
        """Return the tokens of a calibration batch, padding counted: those of a step of the refit, or what a GPU's memory allows."""
        of_one_step = teacher.device.type == "cpu" or self.small_memory or processes.count() > 1
        return TOKENS if of_one_step else pass_tokens(teacher)

    def allocation(
        self, job: Job, teacher: ModelView, curves: Sequence[Tensor], clock: Clock
    ) -> tuple[list[int], dict[str, Any]]:
        """Return the number of units to keep per block, and details for the record: none here, but a subclass may add some.

        Raises:
            OutOfReach: the units that may not go cost more than the budget leaves.
        """
        return allocate_units(teacher, curves, job.budget, self.kinds), {}

    def pass_through(self, block: Block, original: Block, states: Sequence[CalibrationState], same: bool) -> None:
        """Move both states up through a block that keeps its weights.

        Args:
            same: whether student and teacher still are the same below the block.
        """
        for state in states:
            state.student = block.run(state.student, state.context)
            if same:
                state.teacher = state.student
            elif self.follows_teacher:
                state.teacher = original.run(state.teacher, state.context)

    def prune_block(
        self,
        block: Block,
        original: Block,
        states: Sequence[CalibrationState],
        fisher: OutputFisher,
        below: OutputFisher | None,
        count: int,
        clock: Clock,
    ) -> tuple[list[int], float | None]:
        """Prune a block of the student to `count` units, fit what is left of it, and move both states up.

        Args:
            below: the Fisher of the last block below that has been fitted; None if none has.

        Returns:
            the units kept, and the relative ridge of the last solve; None if no unit is left.
        """
        if below is not None and count and self.map_input:
            with clock("input_map"):
                reads = below.token_weights(self.floor, decided(self.clip))
                fold_map(block, original, states, reads, self.input_ridge)
        weights = fisher.token_weights(self.floor, decided(self.clip))
        prior = self.prior(block)
        with clock("gram"):
            for state in states:
                self.set_target(block, original, state)
            problem = self.problem(block, states, weights)
        with clock("removal"):
            kept = self.select(block, problem, prior, fisher, count)
            keep_units(block, kept)
        with clock("solve"):
            columns = unit_columns(kept, block.width)
            problem = problem.of(columns)
            prior = None if prior is None else prior[:, columns]
            ridge = self.solve(block, problem, prior)
        if self.refit_epochs and count:
            with clock("refit"):
                again = self.refit(block, states, weights, problem, prior, fisher)
                ridge = ridge if again is None else again
        with clock("student"):
            for state in states:
                state.student = block.run(state.student, state.context)
                state.teacher, state.target = original.norm_after(state.teacher), None
        return kept.tolist(), ridge

    def prior(self, block: Block) -> Tensor | None:
        """Return the weights, [d, columns] in float64, to which the ridge draws the output projection; None if it draws to 0."""
        if self.ridge_around == "zero" or not block.units:
            return None
        return output_weight(block).double().clone()

    def set_target(self, block: Block, original: Block, state: CalibrationState) -> None:
        """Set the target of the student block's update on a batch, and move the teacher to `Block.moved`, before `norm_after`.

        The target is the student's own update, plus the share `repair` of its difference from `Block.wanted_update`. If nothing of
        the teacher is needed (`follows_teacher`), the teacher stays where it is.
        """
        repair, student = decided(self.repair), state.student
        if self.follows_teacher:
            update = original.update(state.teacher, state.context)
            state.teacher = moved = original.moved(state.teacher, update)
        if repair == 1:
            # If updates are added as they are, `CalibrationState.update_target` computes the target, and none is kept.
            state.target = None if block.adds_update else block.wanted_update(student, moved, update)
            return
        # Without units and bias, the update is one number for all tokens.
        own = block.update(student, state.context).expand_as(block.stream(student))
        state.target = own + repair * (block.wanted_update(student, moved, update) - own) if repair else own

    def problem(self, block: Block, states: Sequence[CalibrationState], weights: Sequence[Tensor]) -> LeastSquares:
        """Return the least squares of the target on the student's features.

        Args:
            states: after `set_target`.
            weights: of the tokens, per state [B, T].
        """
        problem = LeastSquares.empty(block.columns, block.hidden_size, states[0].device)
        for state, w in zip(states, weights, strict=True):
            target = state.update_target()[state.real]
            if block.units:
                features = block.features(state.student, state.context)[state.real]
            else:
                features = target.new_zeros(len(target), 0)
            problem.add(features, target, w[state.real])
        problem.add_up()
        return problem

    def select(
        self, block: Block, problem: LeastSquares, prior: Tensor | None, fisher: OutputFisher, count: int
    ) -> Tensor:
        """Return the sorted indices of the `count` units to keep; the others are removed greedily, from the optimum over all units."""
        if count in (0, block.units):
            return torch.arange(count, device=problem.lower.device)
        problem = centred_if_biased(block, problem)
        optimum, _, factor = problem.solve_with_factor(decided(self.ridge), prior)
        root = metric_root(fisher.covariance, self.metric_ridge) @ optimum
        inverse = torch.cholesky_inverse(factor)
        del factor, optimum
        kept = remove_greedily(inverse, root, block.width, keep=count).kept(count)
        processes.broadcast([kept])
        return kept

    def refit(
        self,
        block: Block,
        states: Sequence[CalibrationState],
        weights: Sequence[Tensor],
        problem: LeastSquares,
        prior: Tensor | None,
        fisher: OutputFisher,
    ) -> float | None:
        """Fit all weights of the block to the target by gradient steps, and `solve` again; undo both if they explain no more of it.

        Args:
            problem: the least squares that `solve` has just solved.

        Returns:
            the ridge of the second solve; None if the refit was undone.
        """
        root = metric_root(fisher.covariance, self.metric_ridge)
        before = explained(block, problem, root)
        parameters = own_parameters(block)
        was = [parameter.clone() for parameter in parameters]
        descend(block, states, weights, root, self.refit_epochs, decided(self.refit_lr), TOKENS)
        again = self.problem(block, states, weights)
        ridge = self.solve(block, again, prior)
        if processes.broadcast_flag(explained(block, again, root) > before):
            return ridge
        for parameter, value in zip(parameters, was, strict=True):
            parameter.copy_(value)
        return None

    def solve(self, block: Block, problem: LeastSquares, prior: Tensor | None) -> float | None:
        """Set the output projection and its bias, if it has one, to the problem's optimum.

        Returns:
            the relative ridge that was used; None if no unit is left.
        """
        bias = block.bias()
        if not block.units:
            if bias is not None:
                bias.copy_(problem.targets / problem.weight)
            return None
        weight, ridge = centred_if_biased(block, problem).solve(decided(self.ridge), prior)
        output_weight(block).copy_(weight)
        if bias is not None:
            bias.copy_(problem.constant(weight))
        processes.broadcast(own_parameters(block))
        return ridge


def centred_if_biased(block: Block, problem: LeastSquares) -> LeastSquares:
    """Return a problem with the best constant taken out if the output projection has a bias to hold it; else the problem."""
    return problem if block.bias() is None else problem.centred()
