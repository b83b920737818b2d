"""K-prune+ with its widths found by an evolutionary search, as Týr-the-Pruner finds them (AMD, NeurIPS 2025)."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from kprune.clock import Clock
from kprune.contract import Job
from kprune.data import CalibrationSet, split
from kprune.errors import UserError
from kprune.methods.kprune_plus.algorithm import TOKENS, KPrunePlus, centred_if_biased
from kprune.methods.kprune_plus.allocation import allocate_units, prunable_kinds
from kprune.methods.kprune_plus.settings import decided
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_shared_copy
from kprune.models.surgery import empty, output_weight, take_units, unit_columns
from kprune.objectives import Objective
from kprune.settings_checks import check_count, check_positive
from kprune.solve.least_squares import LeastSquares, ridged_cholesky
from kprune.solve.mask_search import BUDGET_ROUNDING
from kprune.storage import Storage, storage_at
from kprune.streams import calibration_states

MOVES = 3
"""The most moves of cost from a block to another by which an offspring differs from its parent."""
Counts = tuple[int, ...]


@dataclass(frozen=True)
class KPrunePlusSearch(KPrunePlus):
    """Decide the widths by a search that begins with those of the error curves, then walk as K-prune+ does.

    A candidate is a number of units for each block. Its model keeps, in every block, the units that the error curve removes
    last, and the output projection on them that comes closest to the dense block's own update on the dense model's features,
    under the curve's Gram matrix. Its fitness is the mean divergence from the teacher on a part of the calibration set that no order and no
    projection has seen; for a language model, over the `top_logits` largest logits of the teacher. The best of each
    generation's offspring takes its parent's place if it is fitter.

    As in Týr, every round of the search moves half as much at once as the one before. Departures from it: units are removed in
    K-prune+'s order and metric; cost may move from heads to neurons and back; any width is possible, not one of nine; each
    offspring is compared on all held-out examples (in Týr, many offspring on a few examples, then few on more); the search decides
    only the widths, and K-prune+ prunes to them. The search is smaller, too: 4 rounds of 10 generations of 16 offspring; Týr's has 4
    rounds of 50 generations of 128.

    The search costs one more Fisher pass and one more walk up the teacher; and for each candidate, a triangular system for each
    block and a forward pass of the pruned model over the held-out examples. The Cholesky factor of each block's Gram matrix,
    [columns, columns], is kept where `states` says.

    Attributes:
        rounds, generations, offspring: number of rounds, of generations in a round, and of candidates in a generation.
        step: share of a block's units that the first round moves at once.
        held_out: share of the calibration examples that candidates are compared on.
        top_logits: of a language model, the number of logits that are compared for each token.
    """

    rounds: int = 4
    generations: int = 10
    offspring: int = 16
    step: float = 0.125
    held_out: float = 0.1
    top_logits: int = 8192
    name: str = "kprune_plus_search"

    uniform = False
    several_processes = False
    version = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(generations=self.generations, offspring=self.offspring, rounds=self.rounds)
        check_count(top_logits=self.top_logits)
        check_positive(step=self.step)
        if not 0 < self.held_out <= 0.5:
            raise UserError(f"held_out={self.held_out} is out of range: give a share above 0, up to 0.5")

    def allocation(
        self, job: Job, teacher: ModelView, curves: Sequence[Tensor], clock: Clock
    ) -> tuple[list[int], dict[str, Any]]:
        """Return the units to keep per block; for the record, the fitness of the first and the best candidate, and their number."""
        start = tuple(allocate_units(teacher, curves, job.budget, self.kinds))
        fit, held_out = split(job.data.calibration, every=round(1 / self.held_out))
        storage = storage_at(self.states, teacher.device)
        with clock("supernet"):
            solutions = self.solutions(teacher, fit, job.objective, storage)
            fitness = Fitness(teacher, solutions, held_out, job.objective, self.temperature, self.top_logits)
        kinds = prunable_kinds(teacher, job.budget) if self.kinds == "auto" else self.kinds
        moves = Moves(teacher, job, [index for index, block in enumerate(teacher.blocks) if block.kind in kinds])
        with clock("search"):
            found, known = self.search(start, moves, fitness.divergence, random.Random(job.data.seed))
        details = {"start": known[start], "found": known[found], "candidates": len(known), "units": list(start)}
        return list(found), {"search": details}

    def search(
        self, start: Counts, moves: "Moves", divergence: Callable[[Counts], float], draw: random.Random
    ) -> tuple[Counts, dict[Counts, float]]:
        """Return the fittest allocation, and the divergence of every candidate."""
        best, known = start, {start: divergence(start)}
        with tqdm(total=self.rounds * self.generations, desc="search", unit="generation", disable=None) as bar:
            for number in range(self.rounds):
                for _ in range(self.generations):
                    for _ in range(self.offspring):
                        child = best
                        for _ in range(draw.randint(1, MOVES)):
                            child = moves.one(child, self.step / 2**number, draw)
                        if child not in known:
                            known[child] = divergence(child)
                    # Of equally fit candidates, `min` takes the first, and a parent came before its offspring.
                    best = min(known, key=lambda counts: known[counts])
                    bar.update()
        return best, known

    def solutions(
        self, teacher: ModelView, calibration: CalibrationSet, objective: Objective, storage: Storage
    ) -> list["Solutions | None"]:
        """Return the output projections of every block for any number of units; None for a block without units.

        Args:
            calibration: without the held-out examples.
        """
        states = calibration_states(teacher, calibration.steps(TOKENS), storage)
        fishers = self.fishers(teacher, states, objective, storage)
        found: list[Solutions | None] = []
        inputs = [storage.keep(state.teacher) for state in states]
        blocks = self.bar(teacher.blocks_at_work(), "supernet", len(fishers))
        for block, fisher in zip(blocks, fishers, strict=True):
            squares = self.gram(block, fisher, states, inputs, storage)
            order = self.removal(block, fisher, squares.centred()).order.flip(0)
            found.append(Solutions(block, squares, order, decided(self.ridge), storage) if block.units else None)
        return found


class Solutions:
    """The optimal output projection of a block on its first k units in some order, for every k.

    For the dense projection W₀ and the ridged Gram matrix H of the features, W_K = W₀_K + W₀_R H_RK (H_KK)⁻¹, with R the units
    that are gone. In the order of the units H = L Lᵀ, and of any first units L_KK is the factor of H_KK, H_RK = L_RK L_KKᵀ.
    So W_K = W₀_K + (W₀_R L_RK) L_KK⁻¹: each k takes one triangular system, and the factorisation of H serves all.

    Args:
        squares: sums over tokens of the dense features.
        order: the units [units], in which the first stay longest.
        ridge: relative to the mean of the Gram matrix's diagonal.
    """

    def __init__(self, block: Block, squares: LeastSquares, order: Tensor, ridge: float, storage: Storage):
        self.order, self.width, self.storage = order, block.width, storage
        self.columns = unit_columns(order, block.width)
        gram = centred_if_biased(block, squares).gram[self.columns[:, None], self.columns]
        self.factor = storage.keep(ridged_cholesky(gram, ridge)[0].to(output_weight(block).dtype))
        self.mean = squares.features / squares.weight if squares.weight else squares.features

    def prune(self, block: Block, count: int) -> None:
        """Reduce a dense block to the first `count` units of the order, with the best output projection and bias for them."""
        kept, gone = self.columns[: count * self.width], self.columns[count * self.width :]
        factor, weight = self.storage.read(self.factor), output_weight(block).to(self.columns.device)
        bias = block.bias()
        missing = weight[:, gone] @ factor[len(kept) :, : len(kept)]
        lower = factor[: len(kept), : len(kept)]
        fitted = weight[:, kept] + torch.linalg.solve_triangular(lower, missing, upper=False, left=False)
        if bias is not None:
            lost = weight.double() @ self.mean - fitted.double() @ self.mean[kept]
            bias = (bias.to(lost) + lost).to(bias)
        if count:
            take_units(block, self.order[:count])
            output_weight(block).copy_(fitted)
        else:
            empty(block)
        own = block.bias()
        if bias is not None and own is not None:
            # Replaced, not overwritten: its memory may be the dense model's.
            own.data = bias


class Fitness:
    """How far a model of any allocation is from the teacher, on examples that are held out.

    Args:
        solutions: per block; None for a block without units.
    """

    def __init__(
        self,
        teacher: ModelView,
        solutions: Sequence[Solutions | None],
        held_out: CalibrationSet,
        objective: Objective,
        temperature: float,
        top_logits: int,
    ):
        self.teacher, self.solutions, self.objective, self.temperature = teacher, solutions, objective, temperature
        self.states = calibration_states(teacher, held_out.steps(TOKENS))
        self.examples = len(held_out.examples)
        self.compared = [self.largest(logits, top_logits) for logits in self.logits(teacher)]

    def largest(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
        """Return the teacher's logits that are compared, and their indices; None if all are."""
        indices = self.objective.most_likely(logits, count)
        return (logits, None) if indices is None else (logits.gather(-1, indices), indices.int())

    def candidate(self, counts: Counts) -> ModelView:
        """Return the model of an allocation, physically pruned."""
        view = view_of(frozen_shared_copy(self.teacher.model), self.teacher.device)
        for block, solutions, count in zip(view.blocks, self.solutions, counts, strict=True):
            if solutions and count < block.units:
                solutions.prune(block, count)
        return view

    def logits(self, view: ModelView) -> Iterator[Tensor]:
        """Yield the answers that the objective reads of a model, a batch at a time."""
        hidden = [state.student for state in self.states]
        for block in view.blocks_at_work():
            hidden = [block.run(x, state.context) for x, state in zip(hidden, self.states, strict=True)]
        with view.ends_at_work():
            for x, state in zip(hidden, self.states, strict=True):
                yield self.objective.answers(view.apply_head(x, state.batch), state.batch)

    def divergence(self, counts: Counts) -> float:
        """Return the mean divergence of an allocation's model from the teacher."""
        total = 0.0
        for student, (teacher, indices) in zip(self.logits(self.candidate(counts)), self.compared, strict=True):
            student = student if indices is None else student.gather(-1, indices.long())
            total += self.objective.divergence(student, teacher, self.temperature).sum().item()
        return total / self.examples


class Moves:
    """Moves of cost from one block to another, after which the model still is within the budget.

    Args:
        free: indices of the blocks that may lose and gain.
    """

    def __init__(self, view: ModelView, job: Job, free: Sequence[int]):
        costs = job.budget.costs(view)
        self.free, self.limit = free, job.budget.limit(view) * (1 + BUDGET_ROUNDING)
        self.totals = [costs[block.name].by_count(block.units).tolist() for block in view.blocks]

    def one(self, counts: Counts, step: float, draw: random.Random) -> Counts:
        """Return an allocation in which a block, the giver, loses a share of its cost, and another, the taker, gets units for it.

        The giver loses one unit at least, and as much as the taker's next unit costs beyond what is spare. The giver gets back
        the units that what is left of the budget pays for. If the giver has no unit or the taker has all of its units, the
        allocation is returned unchanged.
        """
        if len(self.free) < 2:
            return counts
        giver, taker = draw.sample(list(self.free), 2)
        given, taken = self.totals[giver], self.totals[taker]
        has, had = given[counts[giver]], taken[counts[taker]]
        dearer = bisect_right(taken, had)
        if not has or dearer == len(taken):
            return counts
        spare = self.limit - sum(total[count] for total, count in zip(self.totals, counts, strict=True))
        moved = max(step * given[-1], taken[dearer] - had - spare)
        left = bisect_right(given, max(has - moved, 0.0)) - 1
        found = list(counts)
        found[taker] = bisect_right(taken, had + spare + has - given[left]) - 1
        found[giver] = bisect_right(given, has + spare + had - taken[found[taker]]) - 1
        return tuple(found)
