"""K-prune+: widths from the teacher's Fisher, removal with compensation, a refit of each block (docs/notes/kprune_plus.md)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from kprune.budgets import Budget
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.errors import OutOfReach, UserError, check_not_negative, check_positive, check_whole, check_words
from kprune.methods.kprune_plus.fisher import OutputFisher, measure_fisher, metric_root
from kprune.methods.kprune_plus.refit import descend, explained, own_parameters
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy, frozen_view
from kprune.models.families import Kind
from kprune.models.surgery import input_weight, keep_units, output_weight, unit_columns
from kprune.objectives import Objective
from kprune.solve.allocation import allocate, monotone
from kprune.solve.least_squares import LeastSquares, ridged_cholesky
from kprune.solve.removal import Removal, remove_greedily
from kprune.solve.uniform import uniform_counts
from kprune.streams import CalibrationState, calibration_states

# Of a batch, which is a step of the refit: twenty steps an epoch at 20,000 tokens.
TOKENS = 1024
KINDS: tuple[Kind, ...] = ("heads", "neurons")
LEAST_NEURONS = 0.25
"""Share of the neurons' cost below which groups of heads go, too, if neurons alone went first."""


Setting = TypeVar("Setting")


def decided(setting: Setting | Literal["auto"]) -> Setting:
    """Return a setting that `KPrunePlus.settled` has decided."""
    assert setting != "auto"
    return setting


@dataclass(frozen=True)
class KPrunePlus(Method):
    """Decide each block's width by error curves of the teacher's Fisher, then prune and fit block by block, bottom to top.

    The walk chooses units by the student's own features, among all of a block; of the teacher's order of removal, the
    allocation takes the errors alone.

    Attributes:
        temperature: γ of the KL (eq. 4 of the K-prune paper) whose Fisher is measured, above 0.
        ridge: of the least squares, relative to the mean of the Gram matrix's diagonal.
        metric_ridge: λ, what is added to the Fisher's covariance S, relative to the mean of its diagonal.
        floor: ρ, what is added to a token's energy over the mean energy to make its weight.
        input_ridge: of the map from what the student's input weights read to what the teacher's read, relative like `ridge`.
        refit_epochs: passes of the refit of each block's own weights; 0 for none, all in closed form.
        refit_lr: its learning rate, above 0.
        repair: share, from 0 to 1, of the error of the residual stream that a block is asked to make up for; the rest of its
            target is what its own dense weights add on the student's stream.
        clip: tokens whose features have more than so many times the median energy count as if they had that much.
        ridge_around: the weights that the ridge draws to: 0, or the dense ones.
        map_input: whether the map from the student's to the teacher's reading is folded into the input weights.
        tune: whether blocks that lose no unit are fitted, too, as soon as a block below them has lost one.
        kinds: units that may go, "heads" and "neurons"; "auto": as `may_go` says.

    `refit_lr` and those from `repair` to `tune` are "auto" by default, and then follow from where the norms are. If they
    come last, every block's output is scaled anew: all of the error is repaired and no token is clipped. If they come first,
    the stream carries its error on, drifted features would shrink the weights, and a few tokens have most of the energy: half
    of the error is repaired, on top of what the dense weights add on the student's features.
    """

    temperature: float = 2.0
    ridge: float = 1e-2
    metric_ridge: float = 1.0
    floor: float = 1.0
    input_ridge: float = 1e-2
    refit_epochs: int = 10
    refit_lr: float | Literal["auto"] = "auto"
    repair: float | Literal["auto"] = "auto"
    clip: float | Literal["auto"] | None = "auto"
    ridge_around: Literal["zero", "dense", "auto"] = "auto"
    map_input: bool | Literal["auto"] = "auto"
    tune: bool | Literal["auto"] = "auto"
    kinds: Sequence[Kind] | Literal["auto"] = "auto"
    name: str = "kprune_plus"

    uniform = True
    version = 2

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature)
        check_whole(refit_epochs=self.refit_epochs)
        check_words(self)
        if self.repair != "auto" and not (isinstance(self.repair, int | float) and 0 <= self.repair <= 1):
            raise UserError(f"repair={self.repair} is out of range: give a share from 0 to 1, or auto")
        for name in ("clip", "refit_lr"):
            value = getattr(self, name)
            if value != "auto" and not (name == "clip" and value is None):
                check_positive(**{name: value})
        for name in ("map_input", "tune"):
            if getattr(self, name) not in (True, False, "auto"):
                raise UserError(f"{name}={getattr(self, name)} is unknown: use true, false or auto")
        if self.kinds != "auto" and (not self.kinds or set(self.kinds) - set(KINDS)):
            raise UserError(f"kinds={self.kinds} is unknown: use auto, or a list of heads, neurons or both")
        check_not_negative(
            ridge=self.ridge, metric_ridge=self.metric_ridge, floor=self.floor, input_ridge=self.input_ridge
        )

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model.

        Raises:
            UserError: the model's family is not supported, or its features are not finite.
        """
        return self.settled(view_of(job.model)).walk(job)

    @torch.no_grad()
    def walk(self, job: Job) -> Outcome:
        """Measure the teacher, allocate, and walk from the bottom block to the top; no setting is "auto" any more."""
        clock = Clock()
        teacher = view_of(frozen_view(job.model))
        with clock("embeddings"):
            states = calibration_states(teacher, job.data.calibration.steps(TOKENS))
        settings = self.temperature, self.ridge, self.metric_ridge, self.clip
        fishers, curves = job.data.once(
            ("kprune_plus", *settings), clock, lambda own: self.first_pass(teacher, states, job.objective, own)
        )
        counts = self.allocate(teacher, curves, job.budget)
        # Copied here alone: the first pass holds the most beside the model.
        student = view_of(frozen_copy(job.model))
        kept_units: list[list[int]] = []
        ridges: list[float | None] = []
        rows = zip(student.blocks, teacher.blocks, fishers, counts, strict=True)
        below: OutputFisher | None = None
        for block, original, fisher, count in tqdm(list(rows), desc="K-prune+", unit="block", disable=None):
            if count == block.units and (below is None or not self.tune):
                # Nothing has gone so far, or what has gone below is not made up for here.
                with clock("student"):
                    for state in states:
                        state.student = block.run(state.student, state.context)
                        if below is None:
                            state.teacher = state.student
                        elif self.follows_teacher:
                            state.teacher = original.run(state.teacher, state.context)
                kept_units.append(list(range(count)))
                ridges.append(None)
                continue
            if below is not None and count and self.map_input:
                with clock("input_map"):
                    self.fold_map(block, original, states, below.token_weights(self.floor, decided(self.clip)))
            weights = fisher.token_weights(self.floor, decided(self.clip))
            prior = self.prior(block)
            with clock("gram"):
                for state in states:
                    self.ask(block, original, state)
                problem = self.problem(block, states, weights)
            with clock("removal"):
                kept = self.select(block, problem, prior, fisher, count)
                keep_units(block, kept)
            with clock("solve"):
                columns = unit_columns(kept, block.width)
                problem = problem.of(columns)
                prior = None if prior is None else prior[:, columns]
                ridges.append(self.solve(block, problem, prior))
            if self.refit_epochs and count:
                with clock("refit"):
                    ridge = self.refit(block, states, weights, problem, prior, fisher)
                    ridges[-1] = ridges[-1] if ridge is None else ridge
            with clock("student"):
                for state in states:
                    state.student = block.run(state.student, state.context)
                    state.teacher, state.target = original.settle(state.teacher), None
            kept_units.append(kept.tolist())
            below = fisher
        return Outcome.of(student, kept_units, clock, {"ridge": ridges})

    @property
    def follows_teacher(self) -> bool:
        """Tell whether the walk needs the teacher's stream: to make up for its distance, or to map to what it reads."""
        return bool(self.repair or self.map_input)

    def settled(self, view: ModelView) -> "KPrunePlus":
        """Return these settings with what is "auto" decided by where the model's norms are."""
        last = all(block.placement == "after" for block in view.blocks)
        auto: dict[str, Any] = {
            "repair": 1.0,
            "clip": None,
            "ridge_around": "zero",
            "map_input": True,
            "refit_lr": 5e-4,
        }
        if not last:
            auto = {"repair": 0.5, "clip": 10.0, "ridge_around": "dense", "map_input": False, "refit_lr": 1e-3}
        auto["tune"] = True
        return replace(self, **{name: value for name, value in auto.items() if getattr(self, name) == "auto"})

    def allocate(self, view: ModelView, curves: Sequence[Tensor], budget: Budget) -> list[int]:
        """Return the units to keep per block; those of a kind that may not go all stay.

        Raises:
            OutOfReach: what stays alone costs more than the budget leaves.
        """
        kinds = self.may_go(view, budget)
        if budget.uniform:
            return uniform_counts(view, curves, budget, kinds)
        costs, limit = budget.costs(view), budget.limit(view)
        free = [block.kind in kinds for block in view.blocks]
        rows = list(zip(view.blocks, curves, free, strict=True))
        limit -= sum(costs[block.name].of(block.units, block.units) for block, _, may_go in rows if not may_go)
        if limit < 0:
            raise OutOfReach(
                f"without touching other units than {' and '.join(kinds)}, so much is out of reach: ask for less"
            )
        chosen = [(curve, costs[block.name]) for block, curve, may_go in rows if may_go]
        counts = iter(allocate([curve for curve, _ in chosen], [cost for _, cost in chosen], limit))
        return [next(counts) if may_go else block.units for block, _, may_go in rows]

    def may_go(self, view: ModelView, budget: Budget) -> Sequence[Kind]:
        """Return the kinds of units that may go.

        If `kinds` is "auto", these are both; but neurons alone if a unit of an attention is a whole group of query heads, and
        the budget then leaves at least `LEAST_NEURONS` of the neurons' cost. The curve of so large a unit promises too much
        (docs/notes/kprune_plus_experiments.md, "A decoder").
        """
        if self.kinds != "auto":
            return self.kinds
        costs = budget.costs(view)
        heads, neurons = (sum(costs[b.name].of(b.units, b.units) for b in view.of_kind(kind)) for kind in KINDS)
        grouped = any(block.grouped for block in view.of_kind("heads"))
        return ("neurons",) if grouped and budget.limit(view) - heads >= LEAST_NEURONS * neurons else KINDS

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
                weighted = zip(states, fisher.clipped_energies(decided(self.clip)), strict=True)
                for index, (state, energies) in enumerate(weighted):
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

    def fold_map(
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
            if constant is not None and module.bias is not None:
                module.bias.copy_(module.bias.double() + weight @ constant)
            input_weight(module).copy_(weight + weight @ change)

    def prior(self, block: Block) -> Tensor | None:
        """Return the weights [d, columns] in float64 that the ridge draws to; None for 0."""
        if self.ridge_around == "zero" or not block.units:
            return None
        return output_weight(block).double().clone()

    def ask(self, block: Block, original: Block, state: CalibrationState) -> None:
        """Set what a block of the student is asked to add on a batch, and move the teacher up to before its norm."""
        if self.follows_teacher:
            state.teacher = state.teacher + original.update(state.teacher, state.context)
        repair = decided(self.repair)
        if repair < 1:
            own = block.update(state.student, state.context)
            state.target = own + repair * (state.teacher - state.student - own) if repair else own

    def problem(self, block: Block, states: Sequence[CalibrationState], weights: Sequence[Tensor]) -> LeastSquares:
        """Return the student's features against what the block is asked to add.

        Args:
            states: `student` at X_S, `teacher` at X_T + Sub_T(X_T), before a norm that comes last.
        """
        problem = LeastSquares.empty(block.columns, block.hidden_size, states[0].student.device)
        for state, w in zip(states, weights, strict=True):
            target = state.asked()[state.real]
            if block.units:
                features = block.features(state.student, state.context)[state.real]
            else:
                features = target.new_zeros(len(target), 0)
            problem.add(features, target, w[state.real])
        return problem

    def select(
        self, block: Block, problem: LeastSquares, prior: Tensor | None, fisher: OutputFisher, count: int
    ) -> Tensor:
        """Return the `count` units to keep; the others are removed greedily from the optimum over all of them."""
        if count in (0, block.units):
            return torch.arange(count, device=problem.lower.device)
        problem = centred_if_biased(block, problem)
        optimum, _, factor = problem.solved(self.ridge, prior)
        root = metric_root(fisher.covariance, self.metric_ridge) @ optimum
        return remove_greedily(torch.cholesky_inverse(factor), root, block.width, keep=count).kept(count)

    def refit(
        self,
        block: Block,
        states: Sequence[CalibrationState],
        weights: Sequence[Tensor],
        problem: LeastSquares,
        prior: Tensor | None,
        fisher: OutputFisher,
    ) -> float | None:
        """Bring the block's weights closer to what it is asked to add, and `solve` again.

        Args:
            problem: that the block's weights have just solved.

        Returns:
            the ridge of the second solve; None if nothing was gained, and the weights stay as they were.
        """
        root = metric_root(fisher.covariance, self.metric_ridge)
        before = explained(block, problem, root)
        parameters = own_parameters(block)
        was = [parameter.clone() for parameter in parameters]
        descend(block, states, weights, root, self.refit_epochs, decided(self.refit_lr))
        again = self.problem(block, states, weights)
        ridge = self.solve(block, again, prior)
        if explained(block, again, root) > before:
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
        weight, ridge = centred_if_biased(block, problem).solve(self.ridge, prior)
        output_weight(block).copy_(weight)
        if bias is not None:
            bias.copy_(problem.constant(weight))
        return ridge


def centred_if_biased(block: Block, problem: LeastSquares) -> LeastSquares:
    """Take the best constant out of a problem if the output projection has a bias to hold it."""
    return problem if block.bias() is None else problem.centred()
