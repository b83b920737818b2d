"""The budget or target that a cell asks its method for."""

from experiments.config.cell import CellConfig
from kprune.budgets import Budget, FlopsBudget, ParametersBudget
from kprune.target import Target


def asked_of(config: CellConfig, length: float) -> Budget | Target | None:
    """Return the budget of a cell, or its target if it asks for a sparsity or for nothing; None if it asks for a speed-up.

    A budget of time can't be made here, because latencies have to be measured first.

    Args:
        config: the cell.
        length: length of a sequence, in tokens, at which FLOPs are counted.
    """
    target = config.target
    if target.is_sparsity or target.keeps_all:
        return target
    if target.kind == "parameters":
        return ParametersBudget(target.amount, config.grain, config.uniform, config.of)
    if target.kind == "flops":
        return FlopsBudget(target.amount, length, config.grain, config.uniform)
    return None
