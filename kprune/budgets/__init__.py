"""Budgets: what a pruned model may cost, in FLOPs, parameters or measured milliseconds."""

from kprune.budgets.costs import Budget, UnitCost
from kprune.budgets.flops import FlopsBudget
from kprune.budgets.parameters import Of, ParametersBudget

__all__ = ["Budget", "FlopsBudget", "Of", "ParametersBudget", "UnitCost"]
