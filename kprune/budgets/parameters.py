"""A budget in parameters."""

from dataclasses import dataclass

from kprune.budgets.costs import UnitCost, check_grain, check_share, units_in
from kprune.errors import OutOfReach
from kprune.models import ModelView
from kprune.models.flops import layer_parameters


@dataclass(frozen=True)
class ParametersBudget:
    """Remove a share of the layers' parameters; embeddings, pooler and head are not counted.

    Attributes:
        params_reduction: the share to remove, between 0 and 1.
        grain: widths are multiples of so many columns.
        uniform: every layer keeps as many heads, and as many neurons.

    Raises:
        UserError: the share is outside (0, 1), or the grain is no whole number.
    """

    params_reduction: float
    grain: int = 1
    uniform: bool = False
    measure: str = "parameters"

    def __post_init__(self) -> None:
        check_share("params_reduction", self.params_reduction, "the layers' parameters")
        check_grain(self.grain)

    def costs(self, view: ModelView) -> dict[str, UnitCost]:
        """Return the parameters of a unit, by block."""
        return {
            block.name: UnitCost(block.unit_parameters(), grain=units_in(self.grain, block)) for block in view.blocks
        }

    def limit(self, view: ModelView) -> float:
        """Return the parameters that the units kept may have in all.

        Raises:
            OutOfReach: norms and output biases, which stay, have more than may be left.
        """
        everything = layer_parameters(view)
        fixed = everything - sum(block.units * block.unit_parameters() for block in view.blocks)
        limit = everything * (1 - self.params_reduction) - fixed
        if limit < 0:
            raise OutOfReach(
                f"params_reduction={self.params_reduction:g} is out of reach: norms and output biases, which stay, are "
                f"{fixed / everything:.1%} of the layers' parameters: ask for less"
            )
        return limit
