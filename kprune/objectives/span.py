"""Extractive question answering: where an answer starts and ends."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.objectives.base import Objective, excluded_logit, kl_divergence, random_signs, softmax_roots
from kprune.types import Model


class Span(Objective):
    """Compare start and end logits [B, 2, T] by the mean of their two KL divergences.

    Positions outside the attention mask are left out of the softmaxes, so a score does not depend on what an example
    was batched with. `keep_padding` puts them back, as the K-prune authors' code has it.
    """

    name = "span"
    class_suffixes = ("ForQuestionAnswering",)
    auto_class = "AutoModelForQuestionAnswering"
    label_keys = ("start_positions", "end_positions")
    labels_are_positions = True

    def __init__(self, keep_padding: bool = False):
        self.keep_padding = keep_padding

    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        logits = torch.stack([output.start_logits, output.end_logits], dim=1)
        if self.keep_padding:
            return logits
        return logits.masked_fill(attention_mask[:, None, :] == 0, excluded_logit(logits.dtype))

    def read_tokens(self, attention_mask: Tensor, last: bool) -> Tensor:
        return attention_mask.bool()

    def label_values(self, model: Model, example: dict[str, Any]) -> int | None:
        return len(example["input_ids"])

    def crop(self, logits: Tensor, length: int) -> Tensor:
        return logits[:, :length].clone()

    def with_padding(self, keep: bool) -> "Span":
        changed = copy.copy(self)  # a user's own kind stays what it is
        changed.keep_padding = keep
        return changed

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return kl_divergence(student, teacher, temperature).mean(dim=-1)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        # The signs of start and end are independent, so that one root serves both.
        signs = torch.stack([random_signs(keys, logits.shape[-1], stream) for stream in (0, 1)], dim=1)
        roots = softmax_roots(logits, temperature, signs[..., None].to(logits.dtype))
        return [roots[..., 0].sum(dim=-1) / 2**0.5]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
