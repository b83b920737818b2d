"""A budget in measured milliseconds."""

from dataclasses import dataclass, replace

from kprune.budgets.costs import UnitCost, check_grain, units_in
from kprune.budgets.latency.table import LatencyTable, scaled
from kprune.errors import OutOfReach
from kprune.models import ModelView
from kprune.target import check_speedup


@dataclass(frozen=True)
class LatencyBudget:
    """A speed-up by the measured times of a table, in place of a share of FLOPs.

    Attributes:
        speedup: how many times as fast as the dense model, above 1.
        table: the measured times, in milliseconds.
        sequence_length: tokens that a method counts FLOPs at, if it reports any; a mean.
        grain: widths are multiples of so many columns.
        uniform: every layer keeps as many heads, and as many neurons.
        scale: factor of the table's costs, corrected once a pruned model has been measured (`corrected`).

    Raises:
        UserError: the speed-up is no factor above 1, or the grain is no whole number.
        OutOfReach: without any head and neuron, the model still takes longer.
    """

    speedup: float
    table: LatencyTable
    sequence_length: float
    grain: int = 1
    uniform: bool = False
    scale: float = 1.0
    measure: str = "latency"

    def __post_init__(self) -> None:
        check_speedup(self.speedup)
        check_grain(self.grain)
        most = self.table.dense_ms / self.table.empty_ms
        if self.speedup >= most:
            raise OutOfReach(
                f"speedup={self.speedup:g} is out of reach: without any head and neuron the model is {most:.1f}x faster "
                "here, by what its embeddings, norms and head take: ask for less"
            )

    def costs(self, view: ModelView) -> dict[str, UnitCost]:
        """Return the milliseconds of a unit, by block."""
        costs = self.table.costs(view)
        return {
            block.name: replace(scaled(costs[block.name], self.scale), grain=units_in(self.grain, block))
            for block in view.blocks
        }

    def limit(self, view: ModelView) -> float:
        """Return the milliseconds that the units kept may take in all."""
        return self.table.dense_ms / self.speedup - self.table.empty_ms

    def spent(self, dense: ModelView, pruned: ModelView) -> float:
        """Return the milliseconds that the units of a pruned model take by the table."""
        costs = self.costs(dense)
        pairs = zip(dense.blocks, pruned.blocks, strict=True)
        return sum(costs[before.name].of(after.units, before.units) for before, after in pairs)

    def corrected(self, spent_ms: float, measured_speedup: float) -> "LatencyBudget":
        """Return the same request with costs scaled so that they agree with the measurement of a pruned model.

        Args:
            spent_ms: milliseconds of its units by this budget (`spent`).
            measured_speedup: of the pruned model.
        """
        units_ms = self.table.dense_ms / measured_speedup - self.table.empty_ms
        # Bounded: a time close to what the clock can resolve may give any factor.
        factor = min(max(units_ms / spent_ms, 0.5), 2.0) if spent_ms else 1.0
        return replace(self, scale=self.scale * factor)
