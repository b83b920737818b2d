"""Prune a subject to what its cell asks for."""

from experiments.config.groups import LatencyPoint
from experiments.inputs.subject import Subject
from experiments.store.record import Latency
from kprune.budgets import Budget, FlopsBudget, Of, ParametersBudget
from kprune.budgets.latency import Point
from kprune.contract import Job, Method, Outcome, PruningData
from kprune.speedup import prune_to_speedup
from kprune.target import Target


def prune_within(
    target: Target,
    of: Of,
    grain: int,
    uniform: bool,
    latency: LatencyPoint | None,
    method: Method,
    subject: Subject,
    data: PruningData,
    length: float,
) -> tuple[Outcome, Latency | None]:
    """Prune to a target, FLOPs being counted at `length`.

    Returns:
        the outcome, and its latency if that was the budget and so has been measured.

    Raises:
        OutOfReach: the target is beyond what the method, or any method, can do on the model.
    """
    model, objective = subject.model, subject.task.objective
    if target.kind != "latency":
        asked = target if target.is_sparsity or target.keeps_all else counted_budget(target, of, length, grain, uniform)
        method.check(model, asked)
        return method.prune(Job(model, objective, data, asked)), None
    point = Point(latency.batch_size, latency.sequence_length)
    outcome, measured = prune_to_speedup(method, model, objective, data, target.amount, length, point, grain, uniform)
    if not outcome.details["latency_budget"]["reached"]:
        print(
            f"speedup={target.amount:g} was not reached within 5 %: {measured['speedup']:.2f}x is the closest of three"
        )
    return outcome, Latency(**measured)


def counted_budget(target: Target, of: Of, length: float, grain: int, uniform: bool) -> Budget:
    """Return the budget of a target that is counted, not measured."""
    if target.kind == "parameters":
        return ParametersBudget(target.amount, grain, uniform, of)
    return FlopsBudget(target.amount, length, grain, uniform)
