"""The same share of units in every block, and the frame of methods that prune each block to it."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from kprune.budgets import Budget
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.errors import OutOfReach
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.family import Kind
from kprune.settings_checks import check_kinds
from kprune.solve.mask_search import greedy
from kprune.solve.uniform import KINDS, curve_of_scores, uniform_counts
from kprune.streams import CalibrationState, calibration_states
from kprune.types import Model


def same_share(
    view: ModelView, budget: Budget, spared: Collection[int] = (), kinds: Collection[Kind] = KINDS
) -> list[int]:
    """Return the units to keep per block, the same share of each block's own.

    The number of units to remove is rounded down, as in the code of Wanda-sp, and in that of LLM-Pruner for heads (it rounds
    neurons up): of three groups of query heads, none goes at shares below a third. What is left of the budget keeps one more unit
    per block, from the bottom up, until it is less than a unit costs.

    Args:
        spared: layers whose units all stay.
        kinds: units that may go; those of the other kind all stay.

    Raises:
        OutOfReach: the blocks that stay whole cost more than the budget leaves.
    """
    # The score of a block's k-th best unit: the share that every block has lost by the time this unit goes.
    shares = [1 - torch.arange(block.units, dtype=torch.float64) / block.units for block in view.blocks]
    costs = budget.costs(view)
    if budget.uniform:
        curves = [curve_of_scores(share, costs[block.name]) for share, block in zip(shares, view.blocks, strict=True)]
        return uniform_counts(view, curves, budget, kinds)
    may_go = [block.layer not in spared and block.kind in kinds for block in view.blocks]
    free = [index for index, goes in enumerate(may_go) if goes]
    counts = [block.units for block in view.blocks]
    stay = [block for block, goes in zip(view.blocks, may_go, strict=True) if not goes]
    limit = budget.limit(view) - sum(costs[block.name].of(block.units, block.units) for block in stay)
    if limit < 0:
        raise OutOfReach(
            "the blocks that stay whole cost more than the budget leaves: ask for less, or spare fewer layers or kinds"
        )
    masks = greedy([shares[index] for index in free], [costs[view.blocks[index].name] for index in free], limit)
    for index, mask in zip(free, masks, strict=True):
        counts[index] = int(mask.sum())
    return counts


@dataclass(frozen=True)
class BlockByBlock(Method):
    """Prune every block by the same share, from the bottom up, each on what the pruned blocks below it give.

    In memory are one hidden state per calibration token, and the statistics of one block at a time.

    Attributes:
        kinds: units that may go, "heads" and "neurons"; blocks of the other kind stay as they are.
    """

    kinds: Sequence[Kind] = KINDS

    uniform = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kinds(self.kinds)

    def check(self, model: Model, budget: Budget) -> None:
        """Check as for any method, and that the budget pays for the blocks that stay as they are.

        Raises:
            OutOfReach: the blocks that stay as they are cost more than the budget leaves.
            UserError: for the reasons that `Method.check` names.
        """
        super().check(model, budget)
        same_share(view_of(model), budget, kinds=self.kinds)

    @abstractmethod
    def cut(self, block: Block, features: Iterable[Tensor], count: int) -> Tensor:
        """Take units out of a block, in place, and return the indices of those that stay, [count] sorted.

        Args:
            features: of the real tokens of each calibration batch, [N, columns]; they can be iterated over once.
            count: units to keep, fewer than there are.
        """

    @torch.no_grad()
    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model.

        Raises:
            UserError: the model's family is not supported, or its features are not finite.
        """
        clock, view = Clock(), view_of(frozen_copy(job.model))
        counts = same_share(view, job.budget, kinds=self.kinds)
        with clock("embeddings"):
            states = calibration_states(view, job.data.calibration.batches())
        kept_units: list[list[int]] = []
        for block, count in zip(tqdm(view.blocks, self.name, unit="block", disable=None), counts, strict=True):
            kept = torch.arange(block.units)
            if count < block.units:
                with clock("pruning"):
                    kept = self.cut(block, features_of(block, states), count)
            with clock("student"):
                for state in states:
                    state.student = state.teacher = block.run(state.student, state.context)
            kept_units.append(kept.tolist())
        return Outcome.of(view, kept_units, clock, {})


def features_of(block: Block, states: Sequence[CalibrationState]) -> Iterator[Tensor]:
    """Yield the features of each batch's real tokens, [N, columns]."""
    for state in states:
        yield block.features(state.student, state.context)[state.real]
