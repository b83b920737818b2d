"""K-prune: accurate retraining-free pruning (Park, Choi, Kang, ICLR 2024), block by block from the bottom up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from kprune.budgets import UnitCost
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.data import CalibrationSet, split
from kprune.divergence import held_out_divergence
from kprune.errors import UserError
from kprune.memory import pass_tokens
from kprune.methods.kprune.knowledge import Knowledge, KnowledgeSettings, measure
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy, frozen_shared_copy
from kprune.models.surgery import keep_units, output_weight
from kprune.objectives import Objective
from kprune.settings_checks import check_count, check_not_negative, check_positive
from kprune.solve.least_squares import LeastSquares
from kprune.solve.mask_search import greedy, search
from kprune.solve.uniform import best_units, curve_of_scores, uniform_counts
from kprune.streams import CalibrationState, TeacherLogits, calibration_states


@dataclass(frozen=True)
class KPrune(Method):
    """Prune by the paper: measure knowledge, search masks, tune weights, block by block.

    The defaults depart from the paper where an attribute says so. The authors' code departs from the paper, too:
    `conf/method/kprune_official.yaml` switches every departure on, and `docs/notes/differences_from_the_paper.md` explains each.
    If all scores are zero, a case without a rule in the paper, units are kept by their index, those of the lowest block first.

    Attributes:
        lambdas: λ, the weight of K_rep against K_pred. If there are several, the model is pruned with each on nine tenths of the
            calibration set, and the pruned model that diverges least from the teacher on the last tenth is the outcome; it is
            not pruned again on the whole set (the paper takes the best of two). 0 leaves K_rep out, None leaves K_pred out
            (ablations). The default is for a K_rep that is a mean over tokens and hidden dimensions, so it can't be compared
            with the paper's 2.5e-4 and 1.
        mu: μ, the weight of heads against neurons; 1 is neutral if a head is scored as a whole. 64 in the paper: the
            dimensions of BERT-base's heads, over which its authors' code takes a mean.
        knowledge: how knowledge is measured.
        measure_every: number of blocks after which knowledge is measured anew, 1 in the paper; None measures once, at the
            bottom, and searches all masks with this measurement (ablation "without block-wise pruning").
        measure_examples: k; knowledge is measured on every k-th example in the order of the batches. 1 in the paper. Tuning takes
            all examples.
        tuning: fit the output projections (the ablation leaves them as they are).
        fill_budget: after the threshold, add the best units of the block at hand that still fit. Algorithm 1 of the paper does
            not; False is the literal algorithm.
        strict_threshold: prune at least one unit at each block's search, stop strictly under the budget.
        solve: "float64" with `ridge`, or the authors' "float32" normal equations without one.
        ridge: relative to the mean of the Gram matrix's diagonal; the paper has none.
        keep_bias: a block without units keeps its output bias.
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

    uniform = True

    def __post_init__(self) -> None:
        super().__post_init__()
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

    @property
    def version(self) -> int:  # type: ignore[override]  # settings decide it
        """Return the version: 2 if knowledge is measured on some of the examples, since version 1 took other examples."""
        return 1 if self.measure_examples == 1 else 2

    def check_grain(self, grain: int, uniform: bool) -> None:
        """Check that `fill_budget` is on if widths are to be rounded, since filling is the step that rounds them.

        Raises:
            UserError: `fill_budget` is off, or for the reasons that `Method.check_grain` names.
        """
        super().check_grain(grain, uniform)
        if grain > 1 and not self.fill_budget and not uniform:
            raise UserError(
                f"method {self.name} has fill_budget=False, and widths are rounded by filling: leave grain=1 or use kprune"
            )

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model, by the best of the λ given.

        Raises:
            UserError: the model's family is not supported, something measured is not finite, or there is one example and several λ.
        """
        job = replace(job, objective=job.objective.with_padding(self.span_padding))
        if len(self.lambdas) == 1:
            return self.walk(job, job.data.calibration, self.lambdas[0])
        fit, held_out = split(job.data.calibration)
        clock = Clock()
        with clock("all"):
            outcomes = [self.walk(job, fit, lam) for lam in self.lambdas]
            divergences = [
                held_out_divergence(outcome.model, job.model, job.objective, held_out, self.knowledge.temperature)
                for outcome in outcomes
            ]
        for lam, divergence in zip(self.lambdas, divergences, strict=True):
            if not math.isfinite(divergence):
                raise UserError(
                    f"the model pruned with λ={lam} diverges from the dense one by {divergence} on examples held out: "
                    "leave that λ out of lambdas, or check the checkpoint's weights"
                )
        outcome = outcomes[divergences.index(min(divergences))]
        outcome.details["held_out_divergence"] = dict(zip(map(str, self.lambdas), divergences, strict=True))
        own = sum(outcome.seconds_by_stage.values())
        outcome.seconds_by_stage["lambda_search"] = clock.seconds["all"] - own
        return outcome

    def walk(self, job: Job, calibration: CalibrationSet, lam: float | None) -> Outcome:
        """Walk from the bottom block to the top: measure, search, tune (section 3 of the paper)."""
        clock, objective = Clock(), job.objective
        student, teacher = view_of(frozen_copy(job.model)), view_of(frozen_shared_copy(job.model))
        with clock("teacher"):
            states = calibration_states(student, self.batches(calibration, student))
            logits = TeacherLogits(teacher, self.measured(states), objective)
        remaining, costs = job.budget.limit(student), list(job.budget.costs(student).values())
        kept_units, thresholds, ridges = [], [], []
        for index, block in enumerate(tqdm(student.blocks, desc="K-prune", unit="block", disable=None)):
            with clock("knowledge"):
                if index % (self.measure_every or len(student.blocks)) == 0:
                    knowledge = self.measure(student, teacher, index, self.measured(states), logits, objective)
            with clock("mask_search"):
                scores = self.scores(knowledge, student.blocks[index:], costs[index:], lam)
                if not job.budget.uniform:
                    kept, nu = self.search(scores, costs[index:], remaining)
                else:
                    # One count holds for all layers, so it is chosen before knowledge is measured again further up.
                    if index == 0:
                        counts = uniform_counts(student, list(map(curve_of_scores, scores, costs)), job.budget)
                    kept, nu = best_units(scores[0], counts[index]), 0.0
                remaining -= costs[index].of(len(kept), block.units)
                knowledge = knowledge.without_lowest()
            with clock("weight_tuning"):
                keep_units(block, kept)
                if block.units == 0 and block.bias() is not None and not self.keep_bias:
                    block.bias().zero_()
                ridges.append(self.tune(block, teacher.blocks[index], states))
            kept_units.append(kept.tolist())
            thresholds.append(nu)
        details = {
            "lambda": lam,
            "ridge": ridges,
            # None if no unit fitted.
            "threshold": [None if nu == math.inf else nu or 0.0 for nu in thresholds],
            "no_signal": [index for index, nu in enumerate(thresholds) if nu is None],
        }
        return Outcome.of(student, kept_units, clock, details)

    def batches(self, calibration: CalibrationSet, view: ModelView) -> list[dict[str, Tensor]]:
        """Return the calibration set in batches: as large as a pass allows, unless scores depend on which examples share a batch."""
        if self.drawn_batches or self.knowledge.gradient == "batch":
            return calibration.batches(by_length=not self.drawn_batches)
        # If only some examples are measured, the graph is of these alone: a batch of twice as many takes no more memory.
        return calibration.steps(pass_tokens(view) * min(self.measure_examples, 2))

    def measured(self, states: Sequence[CalibrationState]) -> list[CalibrationState]:
        """Return the calibration states that knowledge is measured on: every k-th example, counted across the batches."""
        every, measured, passed = self.measure_examples, [], 0
        for state in states:
            first, passed = -passed % every, passed + state.examples
            if first < state.examples:
                measured.append(state.some_examples(slice(first, None, every)) if every > 1 else state)
        return measured

    def measure(
        self,
        student: ModelView,
        teacher: ModelView,
        index: int,
        states: Sequence[CalibrationState],
        logits: TeacherLogits,
        objective: Objective,
    ) -> Knowledge:
        """Return the knowledge of all units of block `index` and of the blocks above it."""
        below = zip(student.blocks[:index], teacher.blocks[:index], strict=True)
        same = self.knowledge.predictive == "divergence" and all(ours.units == theirs.units for ours, theirs in below)
        return measure(student, index, states, None if same else logits, objective, self.knowledge)

    def scores(
        self, knowledge: Knowledge, blocks: Sequence[Block], costs: Sequence[UnitCost], lam: float | None
    ) -> list[Tensor]:
        """Return the importance of every unit per FLOP (eqs. 10 and 11), or per whatever else the budget counts."""
        return [
            (self.mu if block.kind == "heads" else 1.0)
            * (k_rep if lam is None else k_pred + lam * k_rep)
            / cost.per_unit
            for block, k_pred, k_rep, cost in zip(
                blocks, knowledge.predictive, knowledge.representational, costs, strict=True
            )
        ]

    def search(
        self, scores: Sequence[Tensor], costs: Sequence[UnitCost], remaining: float
    ) -> tuple[Tensor, float | None]:
        """Choose the units to keep of the first block given, by the threshold ν over all blocks given (Algorithm 1).

        Returns:
            indices [kept], and ν; ν is None if all scores are zero: then units are kept by their index.
        """
        if any(s.any() for s in scores):
            kept, nu = search(scores, costs, remaining, self.fill_budget, self.strict_threshold)
        else:
            kept, nu = greedy(scores, costs, remaining)[0], None
        return kept.nonzero()[:, 0], nu

    @torch.no_grad()
    def tune(self, student: Block, teacher: Block, states: list[CalibrationState]) -> float | None:
        """Fit the student's output projection to the teacher's running state X_T + Sub_T(X_T), and move both states up.

        If updates are normed before they are added, a case without a rule in the paper, the projection is fitted to Sub_T(X_T)
        (`Block.wanted_update`).

        Returns:
            the relative ridge used; None if there was nothing to fit, or solve is "float32", which has none.
        """
        squares = None
        if student.units and self.tuning:
            squares = LeastSquares.empty(student.columns, student.hidden_size, states[0].student.device)
        for state in states:
            update = teacher.update(state.teacher, state.context)
            moved = teacher.moved(state.teacher, update)
            if squares:
                residual = student.wanted_update(state.student, moved, update)
                bias = student.bias()
                if bias is not None:
                    residual = residual - bias
                squares.add(student.features(state.student, state.context)[state.real], residual[state.real])
            state.teacher = teacher.norm_after(moved)
        ridge = None
        if squares:
            if self.solve == "float32":
                weight = squares.solve_float32()
            else:
                weight, ridge = squares.solve(self.ridge)
            output_weight(student).copy_(weight)
        for state in states:
            state.student = student.run(state.student, state.context)
        return ridge
