"""Measured latency, and a budget in measured milliseconds."""

from kprune.budgets.latency.budget import LatencyBudget
from kprune.budgets.latency.generation import measure_generation
from kprune.budgets.latency.table import LatencyTable, measure_table
from kprune.budgets.latency.timing import STANDARD, Point, measure_latency

__all__ = [
    "STANDARD",
    "LatencyBudget",
    "LatencyTable",
    "Point",
    "measure_generation",
    "measure_latency",
    "measure_table",
]
