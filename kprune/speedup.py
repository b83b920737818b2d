"""Prune until the measured model is as much faster as was asked for."""

import time
from collections.abc import Callable
from typing import Any

from kprune.budgets.latency.budget import LatencyBudget
from kprune.budgets.latency.table import measure_table
from kprune.budgets.latency.timing import STANDARD, Point, measure_latency
from kprune.contract import Job, Method, Outcome, PruningData
from kprune.models import view_of
from kprune.models.uniform import check_alike
from kprune.objectives import Objective
from kprune.processes import check_alone
from kprune.target import check_speedup
from kprune.types import Model

TOLERANCE = 0.05
CORRECTIONS = 2


def prune_to_speedup(
    method: Method,
    model: Model,
    objective: Objective,
    data: PruningData,
    speedup: float,
    sequence_length: float,
    point: Point = STANDARD,
    grain: int = 1,
    uniform: bool = False,
) -> tuple[Outcome, dict[str, Any]]:
    """Prune until the pruned model is `speedup` times as fast as the dense one, measured at `point`.

    Args:
        sequence_length: what FLOPs would be counted at; methods whose costs are milliseconds do not look at it.
        grain: widths are multiples of so many feature columns.
        uniform: every layer keeps as many heads, and as many neurons.

    Returns:
        the outcome, whose details say what was tried (`latency_budget`), and its latency, as `measure_latency` returns it.

    Raises:
        UserError: the method does not prune to a latency, the speed-up is no factor above 1, the widths can't be rounded or kept alike
            as asked, or there are several processes.
        OutOfReach: the speed-up is beyond what removing all heads and neurons gives.
    """
    check_alone("a measured speed-up", "start one, or ask for a share of FLOPs or parameters")
    check_speedup(speedup)
    method.check_measure("latency")
    method.check_grain(grain, uniform)
    if uniform:
        method.check_uniform()
        check_alike(view_of(model))
    table = measure_table(model, point.batch_size, point.sequence_length, grain)
    first = LatencyBudget(speedup, table, sequence_length, grain, uniform)
    method.check(model, first)
    return corrected(
        lambda budget: method.prune(Job(model, objective, data, budget)),
        model,
        first,
        lambda pruned: measure_latency(model, pruned, point.batch_size, point.sequence_length),
    )


def corrected(
    prune: Callable[[LatencyBudget], Outcome],
    model: Model,
    budget: LatencyBudget,
    measure: Callable[[Model], dict[str, Any]],
) -> tuple[Outcome, dict[str, Any]]:
    """Prune, measure, correct the table's scale at most twice; return the first outcome within 5 %, or the closest one.

    Args:
        prune: the method, on everything but the budget.
        model: the dense model.
        measure: `measure_latency` of the dense and a pruned model.

    Returns:
        the outcome, whose details say what was tried (`latency_budget`), and its latency.
    """
    dense, attempts = view_of(model), []
    closest: tuple[float, Outcome, dict[str, Any]] | None = None
    start = time.perf_counter()
    for _ in range(1 + CORRECTIONS):
        outcome = prune(budget)
        latency = measure(outcome.model)
        off = abs(latency["speedup"] / budget.speedup - 1)
        attempts.append({"scale": budget.scale, "speedup": latency["speedup"], "range": latency["speedup_range"]})
        if closest is None or off < closest[0]:
            closest = off, outcome, latency
        if off <= TOLERANCE:
            break
        budget = budget.corrected(budget.spent(dense, view_of(outcome.model)), latency["speedup"])
    seconds = time.perf_counter() - start
    assert closest is not None, "there is at least one attempt"
    off, outcome, latency = closest
    outcome.details["latency_budget"] = {
        "speedup": budget.speedup,
        "reached": off <= TOLERANCE,
        "attempts": attempts,
        "table": {"widths": budget.table.widths, "ms": budget.table.ms, "empty_ms": budget.table.empty_ms},
    }
    # The time of the outcome includes the measurements and the attempts that were discarded.
    outcome.seconds_by_stage["latency_search"] = max(seconds - sum(outcome.seconds_by_stage.values()), 0.0)
    outcome.seconds_by_stage["latency_table"] = budget.table.seconds
    return outcome, latency
