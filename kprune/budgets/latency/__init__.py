"""Measured latency, and pruning until a measured speed-up is reached."""

from kprune.budgets.latency.budget import LatencyBudget, check_speedup
from kprune.budgets.latency.search import STANDARD, Point, prune_to_speedup
from kprune.budgets.latency.table import LatencyTable, measure_table
from kprune.budgets.latency.timing import measure_latency

__all__ = [
    "STANDARD",
    "LatencyBudget",
    "LatencyTable",
    "Point",
    "check_speedup",
    "measure_latency",
    "measure_table",
    "prune_to_speedup",
]
