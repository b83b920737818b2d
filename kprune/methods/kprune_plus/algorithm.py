"""K-prune+: one Fisher pass over the teacher, a selection that knows of the re-solve, a refit (docs/kprune_plus.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kprune.budgets.flops import Budget
from kprune.clock import Clock
from kprune.contract import Outcome, PruningData
from kprune.errors import check_not_negative, check_positive, check_whole
from kprune.methods.kprune_plus.fisher import OutputFisher, measure_fisher, metric_root
from kprune.methods.kprune_plus.refit import refit
from kprune.models import adapter_for
from kprune.models.adapter import Adapter, Sublayer
from kprune.models.copies import frozen_copy, frozen_view
from kprune.models.surgery import keep_units, unit_columns
from kprune.objectives import Objective
from kprune.solve.allocation import allocate, monotone
from kprune.solve.least_squares import LeastSquares, ridged_cholesky
from kprune.solve.removal import Removal, remove_greedily
from kprune.streams import CalibrationState, calibration_states

# Of a batch, which is a step of the refit: twenty steps an epoch at 20,000 tokens.
TOKENS = 1024


@dataclass(frozen=True)
class KPrunePlus:
    """Allocation by error curves of the teacher's Fisher, then one walk from the bottom sublayer to the top.

    The walk chooses units by the student's own features, among all of a sublayer; of the teacher's order of removal, the
    allocation takes the errors alone.

    Attributes:
        temperature: γ of the KL (eq. 4 of the K-prune paper) whose Fisher is measured, above 0.
        ridge: of the least squares, relative to the mean of the Gram matrix's diagonal.
        metric_ridge: λ, what is added to the Fisher's covariance S, relative to the mean of its diagonal.
        floor: ρ, what is added to a token's energy over the mean energy to make its weight.
        input_ridge: of the map from the student's state to the teacher's, relative like `ridge`.
        refit_epochs: passes of the refit of each sublayer's own weights; 0 for none, all in closed form.
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

    needs_labels = False
    any_budget = True

    def __post_init__(self):
        check_positive(temperature=self.temperature, refit_lr=self.refit_lr)
        check_whole(refit_epochs=self.refit_epochs)
        check_not_negative(
            ridge=self.ridge, metric_ridge=self.metric_ridge, floor=self.floor, input_ridge=self.input_ridge
        )

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """All heads and neurons may go."""
        return 1.0

    @torch.no_grad()
    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        """Prune a copy of `model` to the budget.

        Raises:
            UserError: the model's family is not supported, or its features are not finite.
        """
        clock = Clock()
        student, teacher = adapter_for(frozen_copy(model)), adapter_for(frozen_view(model))
        with clock("embeddings"):
            states = calibration_states(teacher, data.calibration.steps(TOKENS))
        settings = self.temperature, self.ridge, self.metric_ridge
        fishers, curves = clock.shared(
            data, ("kprune_plus", *settings), lambda own: self.first_pass(teacher, states, objective, own)
        )
        counts = allocate(curves, budget.unit_costs(student), budget.limit(student))
        kept_units, ridges = [], []
        rows = zip(student.sublayers, teacher.sublayers, fishers, counts, strict=True)
        below: OutputFisher | None = None
        for sublayer, original, fisher, count in tqdm(list(rows), desc="K-prune+", unit="sublayer", disable=None):
            if below is None and count == sublayer.units:
                # Nothing has gone so far, and nothing is to be made up for.
                with clock("student"):
                    for state in states:
                        state.student = state.teacher = original.run(state.teacher, state.attention_mask)
                kept_units.append(list(range(count)))
                ridges.append(None)
                continue
            if below is not None and count:
                with clock("input_map"):
                    self.map_input(sublayer, states, below.token_weights(self.floor))
            weights = fisher.token_weights(self.floor)
            with clock("gram"):
                for state in states:
                    state.teacher = state.teacher + original.update(state.teacher, state.attention_mask)
                problem = self.problem(sublayer, states, weights)
            with clock("removal"):
                kept = self.select(sublayer, problem, fisher, count)
                keep_units(sublayer, kept)
            with clock("solve"):
                ridges.append(self.solve(sublayer, problem.of(unit_columns(kept, sublayer.unit_size))))
            if self.refit_epochs and count:
                with clock("refit"):
                    ridge = self.refit(sublayer, states, weights, fisher)
                    ridges[-1] = ridges[-1] if ridge is None else ridge
            with clock("student"):
                for state in states:
                    state.student = sublayer.run(state.student, state.attention_mask)
                    state.teacher = original.norm(state.teacher)
            kept_units.append(kept.tolist())
            below = fisher
        return Outcome.of(student.model, kept_units, clock, {"ridge": ridges})

    def first_pass(
        self, teacher: Adapter, states: Sequence[CalibrationState], objective: Objective, clock: Clock
    ) -> tuple[list[OutputFisher], list[Tensor]]:
        """What the teacher tells of every sublayer, whatever the budget: its Fisher, and its errors by units kept [units + 1]."""
        with clock("fisher"):
            fishers, squares = measure_fisher(teacher, states, objective, self.temperature)
        with clock("curves"):
            rows = zip(tqdm(teacher.sublayers, "curves", disable=None), fishers, strict=True)
            # A Gram matrix goes as soon as its curve is there.
            curves = [monotone(self.removal(sublayer, fisher, squares.pop(0)).errors) for sublayer, fisher in rows]
        return fishers, curves

    def removal(self, sublayer: Sublayer, fisher: OutputFisher, squares: LeastSquares) -> Removal:
        """One sublayer of the teacher taken apart; the errors are the expected KL, but for a constant factor.

        Args:
            squares: A of the Fisher, as sums.
        """
        features = squares.centred()
        if features.dead:
            # No unit, none that does anything, or nothing is felt of them: all may go for nothing.
            units = torch.arange(sublayer.units, device=fisher.covariance.device)
            return Removal(units, fisher.covariance.new_zeros(len(units) + 1))
        factor, _ = ridged_cholesky(features.lower, self.ridge)
        weight = sublayer.projection.weight.double()
        root = metric_root(fisher.covariance, self.metric_ridge) @ weight / features.weight**0.5
        return remove_greedily(torch.cholesky_inverse(factor), root, sublayer.unit_size)

    def map_input(self, sublayer: Sublayer, states: Sequence[CalibrationState], weights: Sequence[Tensor]) -> None:
        """Fold the best affine map from the student's state to the teacher's into the sublayer's input weights."""
        d = sublayer.hidden_size
        squares = LeastSquares.empty(d, d, states[0].student.device)
        for state, w in zip(states, weights, strict=True):
            squares.add(state.student[state.real], (state.teacher - state.student)[state.real], w[state.real])
        change, _ = squares.centred().solve(self.input_ridge)
        constant = squares.constant(change)
        for linear in sublayer.inputs:
            weight = linear.weight.double()
            linear.bias.copy_(linear.bias.double() + weight @ constant)
            linear.weight.copy_(weight + weight @ change)

    def problem(
        self, sublayer: Sublayer, states: Sequence[CalibrationState], weights: Sequence[Tensor]
    ) -> LeastSquares:
        """The student's features against what the teacher's running state is ahead by: X_T + Sub_T(X_T) − X_S.

        Args:
            states: `student` at X_S, `teacher` at X_T + Sub_T(X_T), before the norm.
        """
        problem = LeastSquares.empty(
            sublayer.units * sublayer.unit_size, sublayer.hidden_size, states[0].student.device
        )
        for state, w in zip(states, weights, strict=True):
            target = (state.teacher - state.student)[state.real]
            if sublayer.units:
                features = sublayer.features(state.student, state.attention_mask)[state.real]
            else:
                features = target.new_zeros(len(target), 0)
            problem.add(features, target, w[state.real])
        return problem

    def select(self, sublayer: Sublayer, problem: LeastSquares, fisher: OutputFisher, count: int) -> Tensor:
        """Which `count` units to keep, the others removed greedily from the optimum over all of them."""
        if count in (0, sublayer.units):
            return torch.arange(count, device=problem.lower.device)
        centred = problem.centred()
        factor, _ = ridged_cholesky(centred.lower, self.ridge)
        optimum = torch.cholesky_solve(centred.cross, factor).T
        root = metric_root(fisher.covariance, self.metric_ridge) @ optimum
        return remove_greedily(torch.cholesky_inverse(factor), root, sublayer.unit_size, keep=count).kept(count)

    def refit(
        self, sublayer: Sublayer, states: Sequence[CalibrationState], weights: Sequence[Tensor], fisher: OutputFisher
    ) -> float | None:
        """The sublayer's weights closer to what the teacher adds, and `solve` again; its ridge, None where nothing is gained."""
        root = metric_root(fisher.covariance, self.metric_ridge)

        def solve() -> float | None:
            return self.solve(sublayer, self.problem(sublayer, states, weights))

        return refit(sublayer, states, weights, root, self.refit_epochs, self.refit_lr, solve)

    def solve(self, sublayer: Sublayer, problem: LeastSquares) -> float | None:
        """The output projection and its bias at the problem's optimum; the relative ridge that was used."""
        if not sublayer.units:
            sublayer.projection.bias.copy_(problem.targets / problem.weight)
            return None
        weight, ridge = problem.centred().solve(self.ridge)
        sublayer.projection.weight.copy_(weight)
        sublayer.projection.bias.copy_(problem.constant(weight))
        return ridge
