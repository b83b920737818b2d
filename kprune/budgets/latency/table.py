"""Milliseconds by block width, measured on a model's own blocks, and the line fitted to them."""

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from kprune.budgets.costs import UnitCost, units_in, whole_cost
from kprune.budgets.latency.timing import alternate, random_batch
from kprune.models import Block, Context, ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.surgery import keep_units
from kprune.types import Model

# Widths measured, as shares of a block's units: closest together where strongly pruned blocks end up.
SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
ROUNDS = 5


@dataclass(frozen=True)
class LatencyTable:
    """What was measured on one machine at one batch size and length.

    Attributes:
        widths, ms: per sublayer of a layer ("attention", "ffn"), units kept and milliseconds beyond those of none.
        seconds: what measuring took.
        dense_ms, empty_ms: a forward pass of the whole model, and of what is left of it without any head and neuron
            (embeddings, residual connections, norms, head).
    """

    widths: dict[str, list[int]]
    ms: dict[str, list[float]]
    dense_ms: float
    empty_ms: float
    seconds: float = 0.0

    def costs(self, view: ModelView) -> dict[str, UnitCost]:
        """Return what units cost in milliseconds, by block; scaled so that the dense model's costs add up to its measured time."""
        fits = {name: fit(self.widths[name], self.ms[name]) for name in self.widths}
        # A sublayer that was not measured has no units in any layer.
        costs = {block.name: fits.get(block.site.name, UnitCost(0.0)) for block in view.blocks}
        factor = (self.dense_ms - self.empty_ms) / whole_cost(view, costs)
        return {name: scaled(cost, factor) for name, cost in costs.items()}


def scaled(cost: UnitCost, factor: float) -> UnitCost:
    """Return the same shape of cost, `factor` times as dear."""
    return replace(cost, per_unit=cost.per_unit * factor, base=cost.base * factor)


def fit(widths: Sequence[int], ms: Sequence[float]) -> UnitCost:
    """Fit a cost that is constant up to some width and linear from there, by least squares of the relative errors.

    Kwon et al. (2022, section 4.1) fit the same shape to a measured latency.

    Args:
        widths: increasing, at least one; 0 is not among them.
        ms: times beyond that of a block without units, in milliseconds.
    """
    x = torch.tensor(list(widths), dtype=torch.float64)
    # A block too small to be told from none by the clock still costs something: the searches divide by it.
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
    bend = int(
        (errors <= errors.min() + 1e-12).nonzero()[0]
    )  # of equally good bends, the one with the fewest free units
    return UnitCost(slope[bend].item(), base[bend].item(), bend)


def measure_table(model: Model, batch_size: int, sequence_length: int, grain: int = 1) -> LatencyTable:
    """Time the widest of each kind of a model's sublayers at a range of widths, the whole model, and what is left of it without units.

    Widths are multiples of `grain` feature columns.
    """
    start, dense, empty = time.perf_counter(), frozen_copy(model), frozen_copy(model)
    view, batch = view_of(dense), random_batch(model, batch_size, sequence_length)
    with torch.inference_mode():
        embedded, context = view.embed(batch)
    calls, widths = [], {}
    for site in view.sites:
        widest = max((block for block in view.blocks if block.site is site), key=lambda block: block.units)
        if widest.units:
            widths[site.name] = _widths(widest, grain)
            hidden = _input(view, widest, embedded, context)
            narrowed = [_narrowed(widest, width) for width in (0, *widths[site.name])]
            calls += [partial(block.run, hidden, context) for block in narrowed]
    medians = iter(map(statistics.median, alternate(calls, model.device, ROUNDS)))
    ms = {}
    for name, measured in widths.items():
        none = next(medians)
        ms[name] = [next(medians) - none for _ in measured]
    for block in view_of(empty).blocks:
        keep_units(block, torch.arange(0))
    whole = alternate([partial(m, **batch) for m in (dense, empty)], model.device)
    dense_ms, empty_ms = map(statistics.median, whole)
    return LatencyTable(widths, ms, dense_ms, empty_ms, time.perf_counter() - start)


def _widths(block: Block, grain: int) -> list[int]:
    step = units_in(grain, block)
    widths = {min(max(round(share * block.units / step), 1) * step, block.units) for share in SHARES}
    return sorted(widths)


@torch.inference_mode()
def _input(view: ModelView, block: Block, x: Tensor, context: Context) -> Tensor:
    """Return the input of a block whose layer reads x [B, T, d]; in a parallel layer, the second block's is wider than x."""
    for below in view.by_layer()[block.layer]:
        if below is block:
            break
        x = below.run(x, context)
    return x


def _narrowed(block: Block, width: int) -> Block:
    narrowed = copy.copy(block)
    narrowed.module = copy.deepcopy(block.module)
    keep_units(narrowed, torch.arange(width))
    return narrowed
