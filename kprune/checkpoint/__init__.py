"""Pruned models on disk: written with `save`, read with `load` here or with plain transformers anywhere."""

from kprune.checkpoint.loading import load
from kprune.checkpoint.onnx import export_onnx
from kprune.checkpoint.saving import check_format, save

__all__ = ["check_format", "export_onnx", "load", "save"]
