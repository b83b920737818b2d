"""K-prune: accurate retraining-free pruning (Park, Choi, Kang, ICLR 2024), sublayer by sublayer from the bottom up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kprune.budgets.flops import Budget, UnitCost
from kprune.clock import Clock
from kprune.contract import Outcome, PruningData
from kprune.data import CalibrationSet
from kprune.errors import UserError, check_count, check_not_negative, check_positive, check_words
from kprune.methods.kprune.knowledge import Knowledge, KnowledgeSettings, measure
from kprune.models import adapter_for
from kprune.models.adapter import Adapter, Sublayer
from kprune.models.copies import frozen_copy, frozen_view
from kprune.models.surgery import keep_units
from kprune.objectives import Objective
from kprune.solve.least_squares import LeastSquares
from kprune.solve.mask_search import greedy, search
from kprune.streams import CalibrationState, calibration_states, held_out_divergence, split, teacher_logits

# Tokens of a measuring pass: of BERT-base, its graph takes some 700 MB, and the products are still large ones.
PIECE = 1024


@dataclass(frozen=True)
class KPrune:
    """The paper's method. Its authors' code departs from the paper: `conf/method/kprune_official.yaml` switches every
    departure on, and `docs/differences_from_the_paper.md` says what each is.

    Attributes:
        lambdas: λ, the weight of K_rep against K_pred. Of several, each is run on nine tenths of the calibration set
            and the model with the lowest divergence from the teacher on the last tenth is kept, as it is (the paper takes
            the best of two). 0 leaves K_rep out, None leaves K_pred out (ablations).
        mu: μ, the weight of heads against neurons; 1 is neutral where a head is scored as a whole.
        knowledge: how knowledge is measured.
        measure_every: sublayers from one measuring to the next, 1 in the paper; None measures once, at the bottom, and
            searches all masks with that (ablation "without sublayer-wise pruning").
        measure_examples: knowledge is measured on every k-th example of a batch, 1 in the paper; tuning takes all.
        tuning: fit the output projections (the ablation leaves them as they are).
        fill_budget: after the threshold, add the best units of the sublayer at hand that still fit.
        strict_threshold: prune at least one unit at each sublayer's search, stop strictly under the budget.
        solve: "float64" with `ridge`, or the authors' "float32" normal equations without one.
        ridge: relative to the mean of the Gram matrix's diagonal.
        keep_bias: a sublayer without units keeps its output bias.
        drawn_batches: measure on batches as drawn; else sorted by length, which pads less.
        span_padding: padded positions take part in a span's softmax.
    """

    lambdas: Sequence[float | None] = (0.1,)
    mu: float = 1.0
    knowledge: KnowledgeSettings = field(default_factory=KnowledgeSettings)
    measure_every: int | None = 1
    measure_examples: int = 1
    tuning: bool = True
    fill_budget: bool = True
    strict_threshold: bool = False
    solve: Literal["float64", "float32"] = "float64"
    ridge: float = 1e-6
    keep_bias: bool = True
    drawn_batches: bool = False
    span_padding: bool = False
    name: str = "kprune"

    needs_labels = False
    any_budget = True

    def __post_init__(self):
        check_words(self)
        if not self.lambdas:
            raise UserError("lambdas is empty: give one λ or more, such as [0.1]")
        for lam in self.lambdas:
            check_not_negative(lambdas=0.0 if lam is None else lam)
        check_positive(mu=self.mu)
        check_not_negative(ridge=self.ridge)
        check_count(
            measure_every=1 if self.measure_every is None else self.measure_every,
            measure_examples=self.measure_examples,
        )

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """All heads and neurons may go."""
        return 1.0

    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        """Prune a copy of `model` to the budget.

        Raises:
            UserError: the model's family is not supported, or something measured is not finite.
        """
        objective = objective.with_padding(self.span_padding)
        if len(self.lambdas) == 1:
            return self._prune(model, objective, data.calibration, budget, self.lambdas[0])
        fit, held_out = split(data.calibration)
        clock = Clock()
        with clock("all"):
            outcomes = [self._prune(model, objective, fit, budget, lam) for lam in self.lambdas]
            divergences = [
                held_out_divergence(outcome.model, model, objective, held_out, self.knowledge.temperature)
                for outcome in outcomes
            ]
        for lam, divergence in zip(self.lambdas, divergences, strict=True):
            if not math.isfinite(divergence):
                raise UserError(
                    f"the model pruned with λ={lam} diverges from the dense one by {divergence} on examples held out: "
                    "leave that λ out (method.lambdas), or check the checkpoint's weights"
                )
        outcome = outcomes[divergences.index(min(divergences))]
        outcome.details["held_out_divergence"] = dict(zip(map(str, self.lambdas), divergences, strict=True))
        own = sum(outcome.seconds_by_stage.values())
        outcome.seconds_by_stage["lambda_search"] = clock.seconds["all"] - own
        return outcome

    def _prune(
        self, model: nn.Module, objective: Objective, calibration: CalibrationSet, budget: Budget, lam: float | None
    ) -> Outcome:
        """One walk from the bottom sublayer to the top: measure, search, tune (the paper's section 3)."""
        clock = Clock()
        student, teacher = adapter_for(frozen_copy(model)), adapter_for(frozen_view(model))
        with clock("teacher"):
            states = calibration_states(student, calibration.batches(by_length=not self.drawn_batches))
            logits = teacher_logits(teacher, self.measured(states), objective)
        remaining, costs = budget.limit(student), budget.unit_costs(student)
        kept_units, thresholds, ridges = [], [], []
        for index, sublayer in enumerate(tqdm(student.sublayers, desc="K-prune", unit="sublayer", disable=None)):
            with clock("knowledge"):
                if index % (self.measure_every or len(student.sublayers)) == 0:
                    knowledge = self.measure(student, teacher, index, self.measured(states), logits, objective)
            with clock("mask_search"):
                scores = self.scores(knowledge, student.sublayers[index:], costs[index:], lam)
                kept, nu = self.search(scores, costs[index:], remaining)
                remaining -= costs[index].of(len(kept), sublayer.units)
                knowledge = knowledge.without_lowest()
            with clock("weight_tuning"):
                keep_units(sublayer, kept)
                if sublayer.units == 0 and not self.keep_bias:
                    sublayer.projection.bias.data.zero_()
                ridges.append(self.tune(sublayer, teacher.sublayers[index], states))
            kept_units.append(kept.tolist())
            thresholds.append(nu)
        details = {
            "lambda": lam,
            "ridge": ridges,
            "threshold": [nu or 0.0 for nu in thresholds],
            "no_signal": [index for index, nu in enumerate(thresholds) if nu is None],
        }
        return Outcome.of(student.model, kept_units, clock, details)

    def measured(self, states: Sequence[CalibrationState]) -> list[CalibrationState]:
        """What knowledge is measured on, where it stands now.

        In pieces, so that the graph of a pass is small; but in whole batches where the gradient is that of the batch.
        """
        some = [state.rows(slice(None, None, self.measure_examples)) for state in states]
        if self.knowledge.gradient == "batch":
            return some
        return [piece for state in some for piece in state.pieces(PIECE)]

    def measure(
        self,
        student: Adapter,
        teacher: Adapter,
        index: int,
        states: Sequence[CalibrationState],
        logits: Sequence[Tensor],
        objective: Objective,
    ) -> Knowledge:
        """Knowledge of the units of sublayer `index` and of all above it."""
        below = zip(student.sublayers[:index], teacher.sublayers[:index], strict=True)
        same = self.knowledge.predictive == "divergence" and all(ours.units == theirs.units for ours, theirs in below)
        return measure(student, index, states, None if same else logits, objective, self.knowledge)

    def scores(
        self, knowledge: Knowledge, sublayers: Sequence[Sublayer], costs: Sequence[UnitCost], lam: float | None
    ) -> list[Tensor]:
        """Importance of every unit per FLOP (eqs. 10 and 11), or per whatever else the budget counts."""
        return [
            (self.mu if sublayer.kind == "mha" else 1.0)
            * (k_rep if lam is None else k_pred + lam * k_rep)
            / cost.per_unit
            for sublayer, k_pred, k_rep, cost in zip(
                sublayers, knowledge.predictive, knowledge.representational, costs, strict=True
            )
        ]

    def search(
        self, scores: Sequence[Tensor], costs: Sequence[UnitCost], remaining: float
    ) -> tuple[Tensor, float | None]:
        """Which units of the lowest sublayer given stay, and the threshold ν over all of them (Algorithm 1).

        Returns:
            indices [kept]; ν, None where no unit has a score: then ties are broken by index.
        """
        if any(s.any() for s in scores):
            kept, nu = search(scores, costs, remaining, self.fill_budget, self.strict_threshold)
        else:
            kept, nu = greedy(scores, costs, remaining)[0], None
        return kept.nonzero()[:, 0], nu

    @torch.no_grad()
    def tune(self, student: Sublayer, teacher: Sublayer, states: list[CalibrationState]) -> float | None:
        """Fit the student's output projection to the teacher's running state X_T + Sub_T(X_T), and move both states up.

        Returns:
            The relative ridge used; None where nothing was left to fit, or without a ridge.
        """
        squares = None
        if student.units and self.tuning:
            squares = LeastSquares.empty(
                student.units * student.unit_size, len(student.projection.bias), states[0].student.device
            )
        for state in states:
            update = teacher.update(state.teacher, state.attention_mask)
            if squares:
                residual = state.teacher + update - state.student - student.projection.bias
                squares.add(student.features(state.student, state.attention_mask)[state.real], residual[state.real])
            state.teacher = teacher.add(state.teacher, update)
        ridge = None
        if squares:
            if self.solve == "float32":
                weight = squares.solve_float32()
            else:
                weight, ridge = squares.solve(self.ridge)
            student.projection.weight.copy_(weight)
        for state in states:
            state.student = student.run(state.student, state.attention_mask)
        return ridge
