"""A budget in parameters."""

from dataclasses import dataclass
from typing import Literal, get_args

from kprune.budgets.costs import UnitCost, check_grain, units_in
from kprune.errors import OutOfReach, UserError
from kprune.models import ModelView
from kprune.models.flops import layer_parameters, model_parameters
from kprune.target import check_share

Of = Literal["layers", "model"]


@dataclass(frozen=True)
class ParametersBudget:
    """Remove a share of the parameters of the layers, or of the whole model. Only units of the layers are removed for either.

    Attributes:
        params_reduction: the share to remove, between 0 and 1.
        grain: widths are multiples of so many columns.
        uniform: every layer keeps as many heads, and as many neurons.
        of: what it is a share of: the layers' parameters, without embeddings, pooler and head, or the whole model's, in which
            tied ones count once.

    Raises:
        UserError: the share is outside (0, 1), the grain is no whole number, or `of` is neither.
    """

    params_reduction: float
    grain: int = 1
    uniform: bool = False
    of: Of = "layers"
    measure: str = "parameters"

    def __post_init__(self) -> None:
        check_share("parameters", self.params_reduction)
        check_grain(self.grain)
        if self.of not in get_args(Of):
            raise UserError(f"of={self.of!r} is unknown: give one of {', '.join(get_args(Of))}")

    def costs(self, view: ModelView) -> dict[str, UnitCost]:
        """Return the parameters of a unit, by block."""
        return {
            block.name: UnitCost(block.unit_parameters(), grain=units_in(self.grain, block)) for block in view.blocks
        }

    def limit(self, view: ModelView) -> float:
        """Return the parameters that the units kept may have in all.

        Raises:
            OutOfReach: the parameters that belong to no unit are more than may be left.
        """
        of_layers = self.of == "layers"
        everything = layer_parameters(view) if of_layers else model_parameters(view)
        fixed = everything - sum(block.units * block.unit_parameters() for block in view.blocks)
        limit = everything * (1 - self.params_reduction) - fixed
        if limit < 0:
            stays = "norms and output biases" if of_layers else "embeddings, head, norms and output biases"
            whose = "layers'" if of_layers else "model's"
            raise OutOfReach(
                f"params_reduction={self.params_reduction:g} is out of reach: {stays}, which stay, are "
                f"{fixed / everything:.1%} of the {whose} parameters: ask for less"
            )
        return limit
