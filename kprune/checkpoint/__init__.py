"""Pruned models on disk: written with `save`, read with `load` here or with plain transformers anywhere."""

from kprune.checkpoint.load import load
from kprune.checkpoint.save import save

__all__ = ["load", "save"]
