"""Classifiers of tokens: one softmax over classes for each token, as in named entity recognition."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kprune.objectives.base import IGNORED, Objective, kl_divergence, random_signs, softmax_roots
from kprune.types import Model


class TokenClassification(Objective):
    """Compare logits [B, T, classes] by the KL, summed over an example's real tokens; the loss is the cross-entropy.

    Logits at padding are zeros, so that they neither differ nor have a gradient. Labels are [B, T], -100 where a token has
    none, as at padding and the later pieces of a word.
    """

    name = "token_classification"
    class_suffixes = ("ForTokenClassification",)
    auto_class = "AutoModelForTokenClassification"
    labels_of = "token"

    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        return output.logits.masked_fill(attention_mask[..., None] == 0, 0.0)

    def read_tokens(self, attention_mask: Tensor, last: bool) -> Tensor:
        return attention_mask.bool()

    def label_values(self, model: Model, example: dict[str, Any]) -> int | None:
        return model.config.num_labels

    def crop(self, logits: Tensor, length: int) -> Tensor:
        return logits[:length].clone()

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return kl_divergence(student, teacher, temperature).sum(dim=-1)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        # The signs of different tokens are independent, so that one root serves all of them.
        signs = random_signs(keys, logits[0].numel(), 0).reshape(logits.shape).to(logits.dtype)
        return [softmax_roots(logits, temperature, signs[..., None])[..., 0].sum(dim=-1)]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1)
