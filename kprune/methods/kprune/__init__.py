"""K-prune (Park, Choi, Kang, ICLR 2024): knowledge, mask search, weight tuning, block by block."""

from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.kprune.knowledge import KnowledgeSettings

__all__ = ["KPrune", "KnowledgeSettings"]
