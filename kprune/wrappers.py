"""Models of sentence-transformers: take the transformers model out, read how embeddings are made, put a pruned model in."""

import copy
import sys
from typing import Any

from torch import Tensor, nn

from kprune.errors import UserError
from kprune.objectives import Embedding, Objective
from kprune.types import Model

PACKAGE = "sentence_transformers"
WRAPPERS = ("SentenceTransformer", "CrossEncoder")
POOLINGS = {"mean": "mean", "cls": "first", "lasttoken": "last"}
"""The pooling of an `Embedding` by the name that sentence-transformers has for it."""
OF_ONE_VECTOR = ("Dense", "LayerNorm", "Normalize", "Dropout")
"""Modules of sentence-transformers that make another vector of an embedding."""
VECTOR = "sentence_embedding"
REMEDY = "prune the model inside it, model.transformers_model, with a task of your own"


def wrapper_of(model: Any) -> str | None:
    """Return which of `WRAPPERS` a model is; None if it is none."""
    # Whoever has such a model has imported the package, which kprune does not need.
    package = sys.modules.get(PACKAGE)
    return next((name for name in WRAPPERS if package and isinstance(model, getattr(package, name))), None)


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside a model of sentence-transformers; any other model as it is.

    Raises:
        UserError: its first module does not hold a transformers model, or its head is not one of transformers' own.
    """
    name = wrapper_of(model)
    if name is None:
        return model
    first, *others = model.children()
    inner = getattr(first, "model", None)
    if type(first).__name__ != "Transformer" or not isinstance(inner, nn.Module):
        raise UserError(
            f"the {name} begins with a {type(first).__name__}, not with a Transformer: give one of a model of transformers"
        )
    if name == "CrossEncoder" and others:
        raise UserError(
            f"the CrossEncoder makes its scores by a {type(others[0]).__name__}, which kprune does not know: give one whose model is "
            "a ...ForSequenceClassification"
        )
    return inner


def objective_within(model: Any) -> Objective | None:
    """Return how a SentenceTransformer makes embeddings of its tokens; None for any other model.

    Raises:
        UserError: it uses modules that kprune does not know.
    """
    if wrapper_of(model) != "SentenceTransformer":
        return None
    _, *others = model.children()
    pooling, *rest = others or [None]
    mode = getattr(pooling, "pooling_mode", None)
    if mode not in POOLINGS or not getattr(pooling, "include_prompt", True):
        by = "no module" if pooling is None else " ".join(str(pooling).split())[:120]
        raise UserError(
            f"the SentenceTransformer pools its tokens by {by}, and kprune knows {', '.join(POOLINGS)} of all tokens: {REMEDY}"
        )
    for module in rest:
        kind = type(module).__name__
        if kind not in OF_ONE_VECTOR or getattr(module, "module_input_name", VECTOR) != VECTOR:
            raise UserError(
                f"the SentenceTransformer has a {kind} behind its pooling, and kprune knows {', '.join(OF_ONE_VECTOR)} of the "
                f"embedding there: {REMEDY}"
            )
    project = Projection(rest, model.truncate_dim) if rest or model.truncate_dim else None
    return Embedding(POOLINGS[mode], model.similarity_fn_name == "cosine", project)


def rewrapped(wrapper: Any, model: Model, tokenizer: Any = None) -> Any:
    """Return a copy of a model of sentence-transformers with `model` inside; `model` itself if `wrapper` is no such model.

    Args:
        tokenizer: takes the place of the tokenizer inside; None leaves it as it is.
    """
    if wrapper_of(wrapper) is None:
        return model
    wrapped = copy.deepcopy(wrapper, {id(unwrapped(wrapper)): model})
    if tokenizer is not None:
        next(wrapped.children()).processor = tokenizer
    return wrapped


class Projection:
    """Map a pooled vector [B, d] by modules of sentence-transformers, without dropout, and keep its first `dimensions`.

    Args:
        dimensions: None to keep all of them.
    """

    def __init__(self, modules: list[nn.Module], dimensions: int | None = None):
        self.modules = [copy.deepcopy(module).eval().requires_grad_(False) for module in modules]
        self.dimensions = dimensions

    def __call__(self, pooled: Tensor) -> Tensor:
        features = {VECTOR: pooled}
        for module in self.modules:
            features = module(features)
        return features[VECTOR][..., : self.dimensions]
