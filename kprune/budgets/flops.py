"""A budget in FLOPs."""

from dataclasses import dataclass

from kprune.budgets.costs import UnitCost, check_grain, units_in
from kprune.models import ModelView
from kprune.models.flops import model_flops
from kprune.target import check_share


@dataclass(frozen=True)
class FlopsBudget:
    """Remove a share of FLOPs.

    Attributes:
        flops_reduction: the share to remove, between 0 and 1.
        sequence_length: tokens that FLOPs are counted at; a mean, so it may be fractional.
        grain: widths are multiples of so many columns.
        uniform: every layer keeps as many heads, and as many neurons.

    Raises:
        UserError: the share is outside (0, 1), or the grain is no whole number.
    """

    flops_reduction: float
    sequence_length: float
    grain: int = 1
    uniform: bool = False
    measure: str = "flops"

    def __post_init__(self) -> None:
        check_share("flops", self.flops_reduction)
        check_grain(self.grain)

    def costs(self, view: ModelView) -> dict[str, UnitCost]:
        """Return the FLOPs of a unit, by block."""
        return {
            block.name: UnitCost(block.unit_flops(self.sequence_length), grain=units_in(self.grain, block))
            for block in view.blocks
        }

    def limit(self, view: ModelView) -> float:
        """Return the FLOPs that the units kept may have in all."""
        return model_flops(view, self.sequence_length) * (1 - self.flops_reduction)
