"""Kwon et al., "A Fast Post-Training Pruning Framework for Transformers" (NeurIPS 2022, arXiv 2204.09656)."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from baselines.kwon.fisher import importance, mask_gradients_by_batch
from baselines.kwon.rearrange import rearrange
from baselines.kwon.search import search
from baselines.mask_tuning import prune_and_tune, search_with_teacher
from kprune.budgets.flops import Budget, UnitCost
from kprune.clock import Clock
from kprune.contract import Outcome, PruningData
from kprune.models import view_of
from kprune.models import Block
from kprune.models.copies import frozen_copy
from kprune.objectives import Objective


@dataclass(frozen=True)
class Kwon:
    """Masks of heads and neurons by the Fisher information of the task loss, then tuned as real numbers.

    Three stages, one file each: the Fisher mask search (`fisher.py`, `search.py`), the rearrangement within each
    block (`rearrange.py`), and the mask tuning (`baselines/mask_tuning.py`) against the model masked at the
    constraint √c, c being the share of FLOPs *kept*. Their masks make nothing faster; here the tuned values are folded
    into the output projections and the pruned units are removed. Their own setting is 2,048 labelled examples
    (`calibration.examples`).

    The search leaves less of the budget than one head costs, so no fill step is needed.

    Attributes:
        damping: of the mask tuning's least squares.
        max_scale: a tuned mask value beyond it ends the tuning.
    """

    damping: float = 1.0
    max_scale: float = 10.0
    name: str = "kwon"

    needs_labels = True
    any_budget = True

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """All heads and neurons may go."""
        return 1.0

    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        """Prune a copy of `model` to the budget.

        Raises:
            UserError: the model's family is not supported, the examples have no labels, or gradients are not finite.
        """
        clock, dense = Clock(), view_of(frozen_copy(model))

        def fisher(clock: Clock) -> list[torch.Tensor]:
            with clock("fisher"):
                return mask_gradients_by_batch(dense, data.calibration, objective)

        gradients = clock.shared(data, ("kwon", "fisher"), fisher)
        with clock("mask_search"):
            masks, teacher_masks = search_with_teacher(partial(self.search, gradients), dense, budget)
        with clock("rearrangement"):
            masks = [rearrange(mask, g) for mask, g in zip(masks, gradients, strict=True)]
        with clock("mask_tuning"):
            kept, tuning = prune_and_tune(
                dense, masks, teacher_masks, data.calibration, objective, self.tunes, self.damping, self.max_scale
            )
        return Outcome.of(dense.model, kept, clock, tuning.details())

    @staticmethod
    def tunes(block: Block) -> bool:
        """Which blocks' masks are tuned: all but the first MHA's."""
        return block.kind == "ffn" or block.index > 0

    @staticmethod
    def search(gradients: list[torch.Tensor], costs: list[UnitCost], limit: float) -> list[torch.Tensor]:
        """The Fisher mask search: masks [units] (bool) of all blocks, bottom to top."""
        scores = [importance(g) for g in gradients]
        heads, neurons = search(scores[0::2], scores[1::2], *costs[:2], limit)
        return [mask for layer in zip(heads, neurons, strict=True) for mask in layer]
