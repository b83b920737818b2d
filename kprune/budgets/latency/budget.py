"""A budget in measured milliseconds."""

from dataclasses import dataclass, replace

from kprune.budgets.flops import UnitCost, check_grain, units_in
from kprune.budgets.latency.table import LatencyTable, scaled
from kprune.contract import Pruner
from kprune.errors import OutOfReach, UserError
from kprune.models.adapter import Adapter


@dataclass(frozen=True)
class LatencyBudget:
    """A speed-up by the measured times of a table, in place of `kprune.budgets.flops.Budget`.

    Attributes:
        sequence_length: as a FLOPs budget's, where a method counts FLOPs for its report.
        grain: widths are multiples of so many columns.
        scale: of the table's costs: a pruned model tells how far its sublayers are from the table.

    Raises:
        UserError: the speed-up is none.
        OutOfReach: what is left without any head and neuron already takes longer.
    """

    speedup: float
    table: LatencyTable
    sequence_length: float
    grain: int = 1
    scale: float = 1.0

    def __post_init__(self):
        check_speedup(self.speedup)
        check_grain(self.grain)
        most = self.table.dense_ms / self.table.empty_ms
        if self.speedup >= most:
            raise OutOfReach(
                f"speedup={self.speedup:g} is out of reach: without any head and neuron the model is {most:.1f}x faster "
                "here, by what its embeddings, norms and head take: ask for less"
            )

    def unit_costs(self, adapter: Adapter) -> list[UnitCost]:
        """Milliseconds, per sublayer, bottom to top."""
        return [
            replace(scaled(cost, self.scale), grain=units_in(self.grain, sublayer))
            for cost, sublayer in zip(self.table.unit_costs(adapter), adapter.sublayers, strict=True)
        ]

    def limit(self, adapter: Adapter) -> float:
        """Milliseconds that the units kept may take in all."""
        return self.table.dense_ms / self.speedup - self.table.empty_ms

    def spent(self, dense: Adapter, pruned: Adapter) -> float:
        """What the table says that the units of a pruned model take, in milliseconds."""
        rows = zip(self.unit_costs(dense), dense.sublayers, pruned.sublayers, strict=True)
        return sum(cost.of(after.units, before.units) for cost, before, after in rows)

    def corrected(self, spent_ms: float, measured_speedup: float) -> "LatencyBudget":
        """The same request with costs scaled to what a pruned model was measured at."""
        units_ms = self.table.dense_ms / measured_speedup - self.table.empty_ms
        # A measurement at the edge of what the clock can tell must not run away with the scale.
        factor = min(max(units_ms / spent_ms, 0.5), 2.0) if spent_ms else 1.0
        return replace(self, scale=self.scale * factor)


def check_any_budget(pruner: Pruner) -> None:
    """Raises a UserError where a method counts FLOPs and nothing else."""
    if not pruner.any_budget:
        raise UserError(f"method {pruner.name} prunes by FLOPs alone: leave budget=flops or use method=kprune")


def check_speedup(speedup: float | None) -> None:
    """Raises a UserError where a speed-up is none."""
    if not isinstance(speedup, (int, float)) or speedup <= 1:
        raise UserError(f"speedup={speedup} asks for no speed-up: give a factor above 1, such as speedup=3")
