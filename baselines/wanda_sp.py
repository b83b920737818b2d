"""Wanda-sp: Wanda (Sun et al., ICLR 2024, arXiv 2306.11695) on whole units, as An et al. have it beside FLAP (arXiv 2312.11983)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.owned import by_unit
from baselines.same_share import BlockByBlock
from kprune.errors import UserError
from kprune.models import Block
from kprune.models.surgery import keep_units, output_weight
from kprune.solve.uniform import best_units


@dataclass(frozen=True)
class WandaSP(BlockByBlock):
    """Keep the units with the largest Σ_j mean_i |W_ij| ‖x_j‖, the same share in every block. Nothing is compensated.

    The sum is over the columns j of the output projection W that the unit owns; under grouped queries, these are the columns of
    all query heads of its group. ‖x_j‖ is over all calibration tokens.

    Departures from the authors' code: a feed-forward network reads what the pruned attention below it gives (there, both are
    measured in one pass with the layer still dense). Its half precision and its fixed head size of 128 are left out.
    """

    name: str = "wanda_sp"

    def cut(self, block: Block, features: Iterable[Tensor], count: int) -> Tensor:
        """Take the units with the lowest scores out of a block, in place, and return the others.

        Raises:
            UserError: a feature is not finite.
        """
        kept = best_units(unit_scores(block, features), count)
        keep_units(block, kept)
        return kept


def unit_scores(block: Block, features: Iterable[Tensor]) -> Tensor:
    """Return Σ_j mean_i |W_ij| ‖x_j‖ of every unit: [units] in float64 (FLAP's repository, `prune_wanda_sp`).

    Raises:
        UserError: a feature is not finite.
    """
    weight = output_weight(block).double().abs().mean(dim=0)
    energy = torch.zeros_like(weight)
    for batch in features:
        energy += batch.double().square().sum(dim=0)
    if not torch.isfinite(energy).all():
        raise UserError("features hold NaN or infinity: check the checkpoint's weights")
    return by_unit(weight * energy.sqrt(), block)
