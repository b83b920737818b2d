"""Prune a subject to what its cell asks for."""

from experiments.config.groups import LatencyPoint, Request
from experiments.inputs.subject import Subject
from experiments.store.record import Latency
from kprune.budgets.flops import Budget
from kprune.budgets.latency import Point, prune_to_speedup
from kprune.contract import Outcome, Pruner, PruningData


def prune_within(
    request: Request,
    latency: LatencyPoint | None,
    method: Pruner,
    subject: Subject,
    data: PruningData,
    length: float,
) -> tuple[Outcome, Latency | None]:
    """Prune to a request, FLOPs being counted at `length`.

    Returns:
        the outcome, and its latency if that was the budget and so has been measured.

    Raises:
        OutOfReach: the request is beyond what the method, or any method, can do on the model.
    """
    model, objective, target = subject.model, subject.task.objective, request.target
    if target.kind == "flops":
        budget = Budget(target.amount, length, request.grain)
        budget.check_reach(method, model)
        return method.prune(model, objective, data, budget), None
    point = Point(latency.batch_size, latency.sequence_length)
    outcome, measured = prune_to_speedup(method, model, objective, data, target.amount, length, point, request.grain)
    if not outcome.details["latency_budget"]["reached"]:
        print(
            f"speedup={target.amount:g} was not reached within 5 %: {measured['speedup']:.2f}x is the closest of three"
        )
    return outcome, Latency(**measured)
