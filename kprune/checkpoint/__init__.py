"""Pruned models on disk: written with `save`, read with `load` here or with plain transformers anywhere."""

from kprune.checkpoint.card import python_card
from kprune.checkpoint.classes import become_pruned, check_saveable
from kprune.checkpoint.loading import load
from kprune.checkpoint.onnx import export_onnx
from kprune.checkpoint.saving import FORMATS, check_format, check_kind, check_replaceable, natural_format, save

__all__ = [
    "FORMATS",
    "become_pruned",
    "check_format",
    "check_kind",
    "check_replaceable",
    "check_saveable",
    "export_onnx",
    "load",
    "natural_format",
    "python_card",
    "save",
]
