"""Prune a subject to what its cell asks for."""

from experiments.config.cell import CellConfig
from experiments.inputs.asked import asked_of
from experiments.inputs.subject import Subject
from experiments.store.record import Latency
from kprune.budgets.latency import Point
from kprune.contract import Job, Outcome, PruningData
from kprune.speedup import prune_to_speedup


def prune_within(
    config: CellConfig, subject: Subject, data: PruningData, length: float
) -> tuple[Outcome, Latency | None]:
    """Prune to a cell's target, FLOPs being counted at `length`.

    Returns:
        the outcome, and its latency if that was the budget and so has been measured.

    Raises:
        OutOfReach: the target is beyond what the method, or any method, can do on the model.
    """
    method, model, objective = config.method.build(), subject.model, subject.task.objective
    asked = asked_of(config, length)
    if asked is not None:
        return method.prune(Job(model, objective, data, asked)), None
    point, speedup = Point(config.latency.batch_size, config.latency.sequence_length), config.target.amount
    outcome, measured = prune_to_speedup(
        method, model, objective, data, speedup, length, point, config.grain, config.uniform
    )
    if not outcome.details["latency_budget"]["reached"]:
        print(f"speedup={speedup:g} was not reached within 5 %: {measured['speedup']:.2f}x is the closest of three")
    return outcome, Latency(**measured)
