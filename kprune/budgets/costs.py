"""What units cost, in whatever a budget is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kprune.errors import UserError
from kprune.models import Block, ModelView

WIDEST = 2**20
"""The largest grain that is accepted, in columns: several times the width of the widest networks."""


@dataclass(frozen=True)
class UnitCost:
    """The cost of k units of one block: 0 without units, else `base + per_unit * max(k' - free, 0)`.

    k' is k rounded up to the grain (at most all units): units within a grain come free, so that a search which leaves
    nothing of its budget unused ends on whole grains. FLOPs are linear (base = free = 0). A measured latency is
    constant up to some number of units and linear from there.
    """

    per_unit: float
    base: float = 0.0
    free: int = 0
    grain: int = 1

    def steps(self, units: int) -> Tensor:
        """Return the cost that the first, second, ... kept unit of a block adds: [units] in float64."""
        counts = torch.arange(units + 1)
        rounded = ((counts + self.grain - 1) // self.grain * self.grain).clamp(max=units)
        steps = self.per_unit * (rounded - self.free).clamp(min=0).diff().double()
        steps[:1] += self.base
        return steps

    def by_count(self, units: int) -> Tensor:
        """Return the cost of 0, 1, ... kept units of a block: [units + 1] in float64."""
        return torch.cat([torch.zeros(1, dtype=torch.float64), self.steps(units).cumsum(0)])

    def of(self, kept: int, units: int) -> float:
        """Return the cost of `kept` units of a block that has `units`."""
        return self.steps(units)[:kept].sum().item()


class Budget(Protocol):
    """What a pruned model may cost.

    Attributes:
        measure: "flops", "parameters" or "latency".
        grain: widths are multiples of so many columns, for the hardware's sake; the budget is held nevertheless.
        uniform: every layer keeps as many heads, and as many neurons, so that a stock config can say it.
    """

    @property
    def measure(self) -> str: ...

    @property
    def grain(self) -> int: ...

    @property
    def uniform(self) -> bool: ...

    def costs(self, view: ModelView) -> Mapping[str, UnitCost]:
        """Return what a unit costs, by the name of its block, bottom to top."""
        ...

    def limit(self, view: ModelView) -> float:
        """Return what the units that are kept may cost in all."""
        ...


def whole_cost(view: ModelView, costs: Mapping[str, UnitCost]) -> float:
    """Return what all units of a model cost."""
    return sum(costs[block.name].of(block.units, block.units) for block in view.blocks)


def units_in(grain: int, block: Block) -> int:
    """Return the fewest units of a block that together have at least `grain` columns."""
    return -(-grain // block.width)


def check_grain(grain: int) -> None:
    """Check that a grain is a whole number of columns, and no more than a network may have.

    Raises:
        UserError: it is not.
    """
    if not isinstance(grain, int) or not 1 <= grain <= WIDEST:
        raise UserError(
            f"grain={grain} is no width to round to: give a whole number of columns up to {WIDEST}, such as 16, or 1 for none"
        )
