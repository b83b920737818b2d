"""Kwon et al., "A Fast Post-Training Pruning Framework for Transformers" (NeurIPS 2022, arXiv 2204.09656)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from baselines.kwon.fisher import importance, mask_gradients_by_batch
from baselines.kwon.rearrange import rearrange
from baselines.kwon.search import search
from baselines.mask_tuning import prune_and_tune, search_with_teacher
from kprune.budgets import UnitCost
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.errors import UserError
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy


@dataclass(frozen=True)
class Kwon(Method):
    """Search masks of heads and neurons by the Fisher information of the task loss, then tune them as real numbers.

    Three stages: the Fisher mask search (`fisher.py`, `search.py`), the rearrangement within each block (`rearrange.py`), and
    the mask tuning (`baselines/mask_tuning.py`) against the model masked at the constraint √c, c being the share of FLOPs
    *kept*. Their code only masks; here the tuned values are folded into the output projections and the pruned units are
    removed. Their own setting is 2,048 labelled examples, 32 in a batch (12 on SQuAD). The size of the batches is a part of the
    method: the Fisher information has the squared gradients of a batch's mean loss.

    Departures from their code: their mask search begins at one head, may exceed the budget, and treats a latency in another way
    (`search.py`); and the least squares of the mask tuning is solved exactly, not by LSMR (`solve_scales`).

    Attributes:
        damping: of the mask tuning's least squares.
        max_scale: the tuning ends at a block with a mask value that is larger in size.
    """

    damping: float = 1.0
    max_scale: float = 10.0
    name: str = "kwon"

    needs = frozenset({"labels"})

    def check_grain(self, grain: int, uniform: bool) -> None:
        """Check that widths are not to be rounded: the search can't do it.

        Raises:
            UserError: the grain is above 1.
        """
        if grain > 1:
            raise UserError(f"method {self.name} does not round widths: leave grain=1 or use kprune")

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model.

        Raises:
            UserError: the model's family is not supported, the examples have no labels, or gradients are not finite.
        """
        clock, dense, data, objective = Clock(), view_of(frozen_copy(job.model)), job.data, job.objective

        def fisher(clock: Clock) -> list[torch.Tensor]:
            with clock("fisher"):
                return mask_gradients_by_batch(dense, data.calibration, objective)

        gradients = data.once(("kwon", "fisher"), clock, fisher)
        with clock("mask_search"):
            masks, teacher_masks = search_with_teacher(partial(self.search, dense, gradients), dense, job.budget)
        with clock("rearrangement"):
            masks = [rearrange(mask, g) for mask, g in zip(masks, gradients, strict=True)]
        with clock("mask_tuning"):
            kept, tuning = prune_and_tune(
                dense, masks, teacher_masks, data.calibration, objective, self.tunes, self.damping, self.max_scale
            )
        return Outcome.of(dense, kept, clock, tuning.details())

    @staticmethod
    def tunes(block: Block) -> bool:
        """Tell whether a block's masks are tuned: all blocks but the lowest attention, as in the authors' code."""
        return block.kind == "neurons" or block.layer > 0

    @staticmethod
    def search(
        view: ModelView, gradients: list[torch.Tensor], costs: Mapping[str, UnitCost], limit: float
    ) -> list[torch.Tensor]:
        """Search masks [units] (bool) of all blocks, bottom to top, by the Fisher information.

        All blocks of a kind are taken to cost the same, as in the paper.

        Raises:
            UserError: for the reason that `baselines.kwon.search.search` names.
        """
        scores = {block.name: importance(g) for block, g in zip(view.blocks, gradients, strict=True)}
        of_kind = [[block.name for block in view.of_kind(kind)] for kind in ("heads", "neurons")]
        kinds = [[scores[name] for name in names] for names in of_kind]
        # Not the first block's cost: a block without units costs nothing.
        dearest = [max((costs[name] for name in names), key=lambda cost: cost.per_unit) for names in of_kind]
        found = search(*kinds, *dearest, limit)
        masks = {
            name: mask for names, of in zip(of_kind, found, strict=True) for name, mask in zip(names, of, strict=True)
        }
        return [masks[block.name] for block in view.blocks]
