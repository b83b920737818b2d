"""K-prune+: one Fisher pass over the teacher, a selection that knows of the re-solve, a refit (docs/notes/kprune_plus.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.errors import check_not_negative, check_positive, check_whole
from kprune.methods.kprune_plus.fisher import OutputFisher, measure_fisher, metric_root
from kprune.methods.kprune_plus.refit import refit
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy, frozen_view
from kprune.models.surgery import input_weight, keep_units, output_weight, unit_columns
from kprune.objectives import Objective
from kprune.solve.allocation import allocate, monotone
from kprune.solve.least_squares import LeastSquares, ridged_cholesky
from kprune.solve.removal import Removal, remove_greedily
from kprune.streams import CalibrationState, calibration_states

# Of a batch, which is a step of the refit: twenty steps an epoch at 20,000 tokens.
TOKENS = 1024


@dataclass(frozen=True)
class KPrunePlus(Method):
    """Allocate by error curves of the teacher's Fisher, then walk once from the bottom block to the top.

    The walk chooses units by the student's own features, among all of a block; of the teacher's order of removal, the
    allocation takes the errors alone.

    Attributes:
        temperature: γ of the KL (eq. 4 of the K-prune paper) whose Fisher is measured, above 0.
        ridge: of the least squares, relative to the mean of the Gram matrix's diagonal.
        metric_ridge: λ, what is added to the Fisher's covariance S, relative to the mean of its diagonal.
        floor: ρ, what is added to a token's energy over the mean energy to make its weight.
        input_ridge: of the map from what the student's input weights read to what the teacher's read, relative like `ridge`.
        refit_epochs: passes of the refit of each block's own weights; 0 for none, all in closed form.
        refit_lr: its learning rate.
    """

    temperature: float = 2.0
    ridge: float = 1e-2
    metric_ridge: float = 1.0
    floor: float = 1.0
    input_ridge: float = 1e-2
    refit_epochs: int = 10
    refit_lr: float = 5e-4
    name: str = "kprune_plus"

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature, refit_lr=self.refit_lr)
        check_whole(refit_epochs=self.refit_epochs)
        check_not_negative(
            ridge=self.ridge, metric_ridge=self.metric_ridge, floor=self.floor, input_ridge=self.input_ridge
        )

    @torch.no_grad()
    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model.

        Raises:
            UserError: the model's family is not supported, or its features are not finite.
        """
        clock = Clock()
        student, teacher = view_of(frozen_copy(job.model)), view_of(frozen_view(job.model))
        with clock("embeddings"):
            states = calibration_states(teacher, job.data.calibration.steps(TOKENS))
        settings = self.temperature, self.ridge, self.metric_ridge
        fishers, curves = job.data.once(
            ("kprune_plus", *settings), clock, lambda own: self.first_pass(teacher, states, job.objective, own)
        )
        counts = allocate(curves, list(job.budget.costs(student).values()), job.budget.limit(student))
        kept_units: list[list[int]] = []
        ridges: list[float | None] = []
        rows = zip(student.blocks, teacher.blocks, fishers, counts, strict=True)
        below: OutputFisher | None = None
        for block, original, fisher, count in tqdm(list(rows), desc="K-prune+", unit="block", disable=None):
            if below is None and count == block.units:
                # Nothing has gone so far, and nothing is to be made up for.
                with clock("student"):
                    for state in states:
                        state.student = state.teacher = original.run(state.teacher, state.context)
                kept_units.append(list(range(count)))
                ridges.append(None)
                continue
            if below is not None and count:
                with clock("input_map"):
                    self.map_input(block, original, states, below.token_weights(self.floor))
            weights = fisher.token_weights(self.floor)
            with clock("gram"):
                for state in states:
                    state.teacher = state.teacher + original.update(state.teacher, state.context)
                problem = self.problem(block, states, weights)
            with clock("removal"):
                kept = self.select(block, problem, fisher, count)
                keep_units(block, kept)
            with clock("solve"):
                ridges.append(self.solve(block, problem.of(unit_columns(kept, block.width))))
            if self.refit_epochs and count:
                with clock("refit"):
                    ridge = self.refit(block, states, weights, fisher)
                    ridges[-1] = ridges[-1] if ridge is None else ridge
            with clock("student"):
                for state in states:
                    state.student = block.run(state.student, state.context)
                    state.teacher = original.settle(state.teacher)
            kept_units.append(kept.tolist())
            below = fisher
        return Outcome.of(student, kept_units, clock, {"ridge": ridges})

    def first_pass(
        self, teacher: ModelView, states: Sequence[CalibrationState], objective: Objective, clock: Clock
    ) -> tuple[list[OutputFisher], list[Tensor]]:
        """Return what the teacher tells of every block, whatever the budget.

        The Gram matrices take a second walk up the teacher, so that there is one at a time.

        Returns:
            per block, its Fisher, and its errors by units kept [units + 1].
        """
        with clock("fisher"):
            fishers = measure_fisher(teacher, states, objective, self.temperature)
        curves, inputs = [], [state.teacher for state in states]
        for block, fisher in zip(tqdm(teacher.blocks, "curves", disable=None), fishers, strict=True):
            with clock("fisher_gram"):
                squares = LeastSquares.empty(block.columns, 0, teacher.device)
                for index, (state, energies) in enumerate(zip(states, fisher.energies, strict=True)):
                    inputs[index] = self.add_features(squares, block, state, inputs[index], energies)
            with clock("curves"):
                curves.append(monotone(self.removal(block, fisher, squares).errors))
        return fishers, curves

    @staticmethod
    def add_features(
        squares: LeastSquares, block: Block, state: CalibrationState, x: Tensor, energies: Tensor
    ) -> Tensor:
        """Add Σ a_t f_t f_tᵀ and Σ a_t f_t of a batch to A, and return what the next block reads.

        Args:
            x: the block's input, [B, T, d].
            energies: a_t, [B, T].
        """
        if not block.units:
            return block.run(x, state.context)
        features = block.features(x, state.context)
        real = features[state.real]
        squares.add(real, real.new_zeros(len(real), 0), energies[state.real])
        return block.join(x, block.output(features))

    def removal(self, block: Block, fisher: OutputFisher, squares: LeastSquares) -> Removal:
        """Take one block of the teacher apart; the errors are the expected KL, but for a constant factor.

        Args:
            squares: A of the Fisher, as sums.
        """
        features = squares.centred()
        if features.dead:
            # No unit, none that does anything, or nothing is felt of them: all may go for nothing.
            units = torch.arange(block.units, device=fisher.covariance.device)
            return Removal(units, fisher.covariance.new_zeros(len(units) + 1))
        factor, _ = ridged_cholesky(features.lower, self.ridge)
        weight = output_weight(block).double()
        root = metric_root(fisher.covariance, self.metric_ridge) @ weight / features.weight**0.5
        return remove_greedily(torch.cholesky_inverse(factor), root, block.width)

    def map_input(
        self, block: Block, original: Block, states: Sequence[CalibrationState], weights: Sequence[Tensor]
    ) -> None:
        """Fold the best affine map from what the student's input weights read to what the teacher's read into them.

        If the input weights have no biases, the map is linear.
        """
        d = block.hidden_size
        squares = LeastSquares.empty(d, d, states[0].student.device)
        for state, w in zip(states, weights, strict=True):
            reads = block.read(state.student)[state.real]
            squares.add(reads, original.read(state.teacher)[state.real] - reads, w[state.real])
        affine = all(module.bias is not None for module in block.inputs)
        change, _ = (squares.centred() if affine else squares).solve(self.input_ridge)
        constant = squares.constant(change) if affine else None
        for module in block.inputs:
            weight = input_weight(module).double()
            if constant is not None:
                module.bias.copy_(module.bias.double() + weight @ constant)
            input_weight(module).copy_(weight + weight @ change)

    def problem(self, block: Block, states: Sequence[CalibrationState], weights: Sequence[Tensor]) -> LeastSquares:
        """Return the student's features against what the teacher's running state is ahead by: X_T + Sub_T(X_T) − X_S.

        Args:
            states: `student` at X_S, `teacher` at X_T + Sub_T(X_T), before a norm that comes last.
        """
        problem = LeastSquares.empty(block.columns, block.hidden_size, states[0].student.device)
        for state, w in zip(states, weights, strict=True):
            target = (state.teacher - state.student)[state.real]
            if block.units:
                features = block.features(state.student, state.context)[state.real]
            else:
                features = target.new_zeros(len(target), 0)
            problem.add(features, target, w[state.real])
        return problem

    def select(self, block: Block, problem: LeastSquares, fisher: OutputFisher, count: int) -> Tensor:
        """Return the `count` units to keep; the others are removed greedily from the optimum over all of them."""
        if count in (0, block.units):
            return torch.arange(count, device=problem.lower.device)
        problem = centred_if_biased(block, problem)
        factor, _ = ridged_cholesky(problem.lower, self.ridge)
        optimum = torch.cholesky_solve(problem.cross, factor).T
        root = metric_root(fisher.covariance, self.metric_ridge) @ optimum
        return remove_greedily(torch.cholesky_inverse(factor), root, block.width, keep=count).kept(count)

    def refit(
        self, block: Block, states: Sequence[CalibrationState], weights: Sequence[Tensor], fisher: OutputFisher
    ) -> float | None:
        """Bring the block's weights closer to what the teacher adds, and `solve` again.

        Returns:
            the ridge of the second solve; None if nothing was gained, and the weights stay as they were.
        """
        root = metric_root(fisher.covariance, self.metric_ridge)

        def solve() -> float | None:
            return self.solve(block, self.problem(block, states, weights))

        return refit(block, states, weights, root, self.refit_epochs, self.refit_lr, solve)

    def solve(self, block: Block, problem: LeastSquares) -> float | None:
        """Set the output projection and its bias, if it has one, to the problem's optimum.

        Returns:
            the relative ridge that was used; None if no unit is left.
        """
        bias = block.bias()
        if not block.units:
            if bias is not None:
                bias.copy_(problem.targets / problem.weight)
            return None
        weight, ridge = centred_if_biased(block, problem).solve(self.ridge)
        output_weight(block).copy_(weight)
        if bias is not None:
            bias.copy_(problem.constant(weight))
        return ridge


def centred_if_biased(block: Block, problem: LeastSquares) -> LeastSquares:
    """Take the best constant out of a problem if the output projection has a bias to hold it."""
    return problem if block.bias() is None else problem.centred()
