"""Pruned models on disk: written with `save`, read with `load` here or with plain transformers anywhere."""

from kprune.checkpoint.loading import load
from kprune.checkpoint.saving import save

__all__ = ["load", "save"]
