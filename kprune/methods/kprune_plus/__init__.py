"""K-prune+: error curves of the teacher's Fisher, a selection that knows of the re-solve, a refit."""

from kprune.methods.kprune_plus.algorithm import KPrunePlus

__all__ = ["KPrunePlus"]
