"""What a cell asks its method for."""

from experiments.config.cell import CellConfig
from kprune.budgets import Budget, FlopsBudget, ParametersBudget
from kprune.target import Target


def asked_of(config: CellConfig, length: float) -> Budget | Target | None:
    """Return the budget of a cell, or its target of weights; None if it asks for a speed-up, which has to be measured.

    Args:
        length: that FLOPs are counted at.
    """
    target = config.target
    if target.is_sparsity or target.keeps_all:
        return target
    if target.kind == "parameters":
        return ParametersBudget(target.amount, config.grain, config.uniform, config.of)
    if target.kind == "flops":
        return FlopsBudget(target.amount, length, config.grain, config.uniform)
    return None
