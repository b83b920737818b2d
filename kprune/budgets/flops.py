"""What a pruned model may cost, and what its units cost: FLOPs here, milliseconds in `kprune.budgets.latency`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kprune.errors import OutOfReach, UserError
from kprune.models.adapter import Adapter, Sublayer
from kprune.models.flops import model_flops

if TYPE_CHECKING:
    from kprune.contract import Pruner


@dataclass(frozen=True)
class UnitCost:
    """What k units of one sublayer cost: nothing for none, else `base + per_unit * max(k' - free, 0)`.

    k' is k rounded up to the grain (at most all units): units within a grain come free, so that a search which leaves
    nothing of its budget unused ends on whole grains. FLOPs are linear (base = free = 0). A measured latency is
    constant up to some number of units and linear from there.
    """

    per_unit: float
    base: float = 0.0
    free: int = 0
    grain: int = 1

    def steps(self, units: int) -> Tensor:
        """What the first, second, ... of a sublayer's units kept adds: [units] in float64."""
        counts = torch.arange(units + 1)
        rounded = ((counts + self.grain - 1) // self.grain * self.grain).clamp(max=units)
        steps = self.per_unit * (rounded - self.free).clamp(min=0).diff().double()
        steps[:1] += self.base
        return steps

    def of(self, kept: int, units: int) -> float:
        """What `kept` of `units` units cost."""
        return self.steps(units)[:kept].sum().item()


def units_in(grain: int, sublayer: Sublayer) -> int:
    """A grain of feature columns in units: the fewest heads or neurons that make up as many."""
    return -(-grain // sublayer.unit_size)


def check_grain(grain: int) -> None:
    """Raises a UserError where a grain is not a whole number of columns."""
    if not isinstance(grain, int) or grain < 1:
        raise UserError(
            f"grain={grain} is no width to round to: give a whole number of columns, such as 16, or 1 for none"
        )


@dataclass(frozen=True)
class Budget:
    """Share of FLOPs to remove, counted at one sequence length (tokens; a mean, so it may be fractional).

    A method that asks a budget for `unit_costs` and `limit` alone, and says so by `any_budget = True`, prunes to any
    other object that has them, in whatever they are measured.

    Attributes:
        grain: widths are multiples of so many columns, for the hardware's sake; the budget is held nevertheless.

    Raises:
        UserError: the share is outside (0, 1), or the grain is no whole number.
    """

    flops_reduction: float
    sequence_length: float
    grain: int = 1

    def __post_init__(self):
        if not 0 < self.flops_reduction < 1:
            raise UserError(
                f"flops_reduction={self.flops_reduction:g} is outside (0, 1): give the share of FLOPs to remove, such as 0.8"
            )
        check_grain(self.grain)

    def unit_costs(self, adapter: Adapter) -> list[UnitCost]:
        """What a unit costs, per sublayer, bottom to top."""
        return [UnitCost(s.unit_flops(self.sequence_length), grain=units_in(self.grain, s)) for s in adapter.sublayers]

    def limit(self, adapter: Adapter) -> float:
        """What the units that are kept may cost in all."""
        return model_flops(adapter, self.sequence_length) * (1 - self.flops_reduction)

    def check_reach(self, pruner: "Pruner", model: nn.Module) -> None:
        """Raises OutOfReach where the budget is beyond what the method can do on the model."""
        reach = pruner.reach(model, self.sequence_length)
        if self.flops_reduction > reach:
            raise OutOfReach(
                f"method {pruner.name} reaches a FLOPs reduction of {reach:.3f} on this model, not "
                f"{self.flops_reduction:g}: ask for less"
            )
        if self.grain > 1 and not pruner.any_budget:
            raise UserError(f"method {pruner.name} does not round widths: leave grain=1 or use method=kprune")
