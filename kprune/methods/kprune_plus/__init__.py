"""K-prune+: widths by error curves of the teacher's Fisher, removal with compensation, a refit of each block."""

from kprune.methods.kprune_plus.algorithm import KPrunePlus

__all__ = ["KPrunePlus"]
