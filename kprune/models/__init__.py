"""A transformer as the methods see it: blocks of prunable units, bottom to top."""

from kprune.models.blocks import Block
from kprune.models.view import Context, ModelView, view_of

__all__ = ["Block", "Context", "ModelView", "view_of"]
