"""Embeddings of sentences: one vector for each text, pooled from the tokens of a bare encoder or decoder."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kprune.errors import UserError
from kprune.objectives.base import Objective, random_signs
from kprune.types import Model

POOLINGS = ("mean", "first", "last")
"""What an embedding is made of: the mean of the real tokens, the first of them, or the last."""


class Embedding(Objective):
    """Compare embeddings [B, d] by their squared distance, the KL between two Gaussians of variance ½ around them.

    Between unit vectors it is 2 − 2 cos; if it is zero for every text, no cosine of two texts has changed. Each text's embedding
    is compared, not its similarities to other texts, so that the divergence does not depend on the batch. The temperature has
    no meaning here, and there are no labels.

    Args:
        pooling: one of `POOLINGS`.
        normalise: whether vectors are compared at length 1, as the cosine does.
        project: maps the pooled vector [B, d] to [B, d'] before it is normalised; None leaves it as it is.
    """

    name = "embedding"
    class_suffixes = ("Model",)
    auto_class = "AutoModel"
    label_keys = ()

    def __init__(
        self, pooling: str = "mean", normalise: bool = True, project: Callable[[Tensor], Tensor] | None = None
    ):
        if pooling not in POOLINGS:
            raise UserError(f"pooling='{pooling}' is unknown: use {', '.join(POOLINGS)}")
        self.pooling, self.normalise, self.project = pooling, normalise, project

    @classmethod
    def fits(cls, model: Model) -> bool:
        if not super().fits(model):
            return False
        if model.base_model is not model:
            raise UserError(f"{type(model).__name__} has a head beside its encoder: give the encoder, model.base_model")
        return True

    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        tokens = self.read_tokens(attention_mask, self.pooling == "last")[..., None]
        pooled = output.last_hidden_state.masked_fill(~tokens, 0.0).sum(dim=1) / tokens.sum(dim=1)
        projected = pooled if self.project is None else self.project(pooled)
        return F.normalize(projected, dim=-1) if self.normalise else projected

    def read_tokens(self, attention_mask: Tensor, last: bool) -> Tensor:
        if self.pooling == "mean":
            return attention_mask.bool()
        return super().read_tokens(attention_mask, self.pooling == "last")

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return (student - teacher).square().sum(dim=-1)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        # The Fisher is the identity, so one projection on random signs has the right square in expectation. More did not help.
        signs = random_signs(keys, logits.shape[-1], 0).to(logits.dtype)
        return [2**0.5 * (signs * logits).sum(dim=-1)]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise UserError("an embedding has no labels to train on: use a method that needs none, such as kprune")
