"""Milliseconds by sublayer width, measured on a model's own sublayers, and the line fitted to them."""

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from kprune.budgets.flops import UnitCost
from kprune.budgets.latency.timing import alternate, random_batch
from kprune.models import adapter_for
from kprune.models.adapter import Adapter, Sublayer
from kprune.models.copies import frozen_copy
from kprune.models.surgery import keep_units

# Widths measured, as shares of a sublayer's units: dense where a strongly pruned sublayer ends up.
SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
ROUNDS = 5


@dataclass(frozen=True)
class LatencyTable:
    """What was measured on one machine at one batch size and length.

    Attributes:
        widths, ms: per kind of sublayer ("mha", "ffn") that has units, units kept and milliseconds beyond those of none.
        seconds: what measuring took.
        dense_ms, empty_ms: a forward pass of the whole model, and of what is left of it without any head and neuron
            (embeddings, residual connections, norms, head).
    """

    widths: dict[str, list[int]]
    ms: dict[str, list[float]]
    dense_ms: float
    empty_ms: float
    seconds: float = 0.0

    def unit_costs(self, adapter: Adapter) -> list[UnitCost]:
        """Milliseconds per sublayer, the fits scaled so that the dense model's add up to what it was measured at."""
        fits = {kind: fit(self.widths[kind], self.ms[kind]) for kind in self.widths}
        # A kind that was not measured has no units in any layer.
        costs = [fits.get(sublayer.kind, UnitCost(0.0)) for sublayer in adapter.sublayers]
        total = sum(cost.of(s.units, s.units) for cost, s in zip(costs, adapter.sublayers, strict=True))
        return [scaled(cost, (self.dense_ms - self.empty_ms) / total) for cost in costs]


def scaled(cost: UnitCost, factor: float) -> UnitCost:
    """The same shape of cost, `factor` times as dear."""
    return replace(cost, per_unit=cost.per_unit * factor, base=cost.base * factor)


def fit(widths: Sequence[int], ms: Sequence[float]) -> UnitCost:
    """Constant up to some width and linear from there, by least squares of the relative errors.

    Kwon et al. (2022, section 4.1) fit the same shape to a measured latency.

    Args:
        widths: increasing, at least one; 0 is not among them.
        ms: the times beyond those of no unit.
    """
    x = torch.tensor(list(widths), dtype=torch.float64)
    # A sublayer too small to be told from none by the clock still costs something: the searches divide by it.
    y = torch.tensor(list(ms), dtype=torch.float64).clamp(min=1e-9)
    bends = torch.arange(widths[-1], dtype=torch.float64)[:, None]
    rise, weight = (x - bends).clamp(min=0), y**-2
    total, first, second = weight.sum(), (weight * rise).sum(dim=1), (weight * rise.square()).sum(dim=1)
    constant, linear = (weight * y).sum(), (weight * rise * y).sum(dim=1)
    determinant = total * second - first.square()
    slope = (total * linear - first * constant) / determinant
    base = (second * constant - first * linear) / determinant
    through_zero = ~(base >= 0)  # or undetermined
    slope = torch.where(through_zero, linear / second, slope)
    base = torch.where(through_zero, 0.0, base)
    errors = ((base[:, None] + slope[:, None] * rise) / y - 1).square().sum(dim=1)
    errors = errors.masked_fill(~(slope > 1e-6 * y[-1] / x[-1]), float("inf"))
    if errors.isinf().all():
        return UnitCost((y[-1] / x[-1]).item())
    bend = int((errors <= errors.min() + 1e-12).nonzero()[0])  # of equals the one with the fewest free units
    return UnitCost(slope[bend].item(), base[bend].item(), bend)


def measure_table(model: nn.Module, batch_size: int, sequence_length: int, grain: int = 1) -> LatencyTable:
    """Time a model's widest MHA and FFN at a range of widths, the whole model, and what is left of it without units.

    Widths are multiples of `grain` feature columns.
    """
    start, dense, empty = time.perf_counter(), frozen_copy(model), frozen_copy(model)
    adapter, batch = adapter_for(dense), random_batch(model, batch_size, sequence_length)
    with torch.inference_mode():
        hidden, attention_mask = adapter.embed(batch)
    calls, widths = [], {}
    for kind in ("mha", "ffn"):
        widest = max((s for s in adapter.sublayers if s.kind == kind), key=lambda s: s.units)
        if widest.units:
            widths[kind] = _widths(widest, grain)
            narrowed = [_narrowed(widest, width) for width in (0, *widths[kind])]
            calls += [lambda s=s: s.run(hidden, attention_mask) for s in narrowed]
    medians = iter(map(statistics.median, alternate(calls, model.device, ROUNDS)))
    ms = {}
    for kind, measured in widths.items():
        none = next(medians)
        ms[kind] = [next(medians) - none for _ in measured]
    for sublayer in adapter_for(empty).sublayers:
        sublayer.empty()
    whole = alternate([lambda m=m: m(**batch) for m in (dense, empty)], model.device)
    return LatencyTable(widths, ms, *map(statistics.median, whole), seconds=time.perf_counter() - start)


def _widths(sublayer: Sublayer, grain: int) -> list[int]:
    step = -(-grain // sublayer.unit_size)
    widths = {min(max(round(share * sublayer.units / step), 1) * step, sublayer.units) for share in SHARES}
    return sorted(widths)


def _narrowed(sublayer: Sublayer, width: int) -> Sublayer:
    narrowed = copy.copy(sublayer)
    narrowed.layer = copy.deepcopy(sublayer.layer)
    keep_units(narrowed, torch.arange(width))
    return narrowed
