"""Pruning a subject to the target of its cell."""

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
    """Prune a subject to a cell's target.

    Args:
        data: the data that the method reads.
        length: length of a sequence, in tokens, at which FLOPs are counted.

    Returns:
        the outcome, and its latency if the budget is latency, else None.

    Raises:
        OutOfReach: the method can't reach the target on the model.
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
