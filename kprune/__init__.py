"""Structured pruning of transformers without retraining: `kprune.prune(model, batches, flops_reduction=0.8)`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kprune.api import Pruned, prune
    from kprune.budgets import FlopsBudget, ParametersBudget
    from kprune.checkpoint import load
    from kprune.contract import Job, Method, Outcome
    from kprune.errors import UserError
    from kprune.models.copies import unshared
    from kprune.models.semi_structured import with_sparse_kernels
    from kprune.plan import Plan
    from kprune.vocabulary import prune_vocabulary

__all__ = [
    "FlopsBudget",
    "Job",
    "Method",
    "Outcome",
    "ParametersBudget",
    "Plan",
    "Pruned",
    "UserError",
    "load",
    "prune",
    "prune_vocabulary",
    "unshared",
    "with_sparse_kernels",
]

_WHERE = {
    "prune": "kprune.api",
    "Pruned": "kprune.api",
    "prune_vocabulary": "kprune.vocabulary",
    "load": "kprune.checkpoint",
    "Job": "kprune.contract",
    "Method": "kprune.contract",
    "Outcome": "kprune.contract",
    "Plan": "kprune.plan",
    "FlopsBudget": "kprune.budgets",
    "ParametersBudget": "kprune.budgets",
    "UserError": "kprune.errors",
    "unshared": "kprune.models.copies",
    "with_sparse_kernels": "kprune.models.semi_structured",
}


def __getattr__(name: str) -> Any:
    # torch and transformers are imported when they are used: the tables and the command lines' errors need neither.
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'kprune' has no attribute '{name}'")
