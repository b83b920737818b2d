"""Masked language models: what stood at the masked tokens of a text."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.objectives.base import IGNORED
from kprune.objectives.vocabulary_head import VocabularyHead
from kprune.types import Model


class MaskedLM(VocabularyHead):
    """Compare logits at the masked tokens, which are those with a label: [B, P, vocabulary].

    P is the largest number of them in an example; the logits of an example with fewer end in zeros. Labels are [B, T], -100
    wherever nothing was masked, as transformers' `DataCollatorForLanguageModeling` and `kprune.masked_tokens` make them; the loss is
    the cross-entropy.
    """

    name = "masked_lm"
    class_suffixes = ("ForMaskedLM",)
    auto_class = "AutoModelForMaskedLM"
    labels_of = "token"
    reads_labels = True

    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        return packed(output.logits, attention_mask.bool())

    def answers(self, output: Any, batch: dict[str, Tensor]) -> Tensor:
        return self.read(output, batch["labels"] != IGNORED)

    def answered(self, batch: dict[str, Tensor]) -> Tensor:
        asked = batch["labels"] != IGNORED
        return packed(asked, asked)

    def label_values(self, model: Model, example: dict[str, Any]) -> int | None:
        return model.config.vocab_size

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        asked = labels != IGNORED
        wanted = packed(labels, asked).masked_fill(~packed(asked, asked), IGNORED)
        total = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / asked.sum().clamp(min=1)


def packed(values: Tensor, asked: Tensor) -> Tensor:
    """Return the entries of values [B, T, ...] that are asked for ([B, T] bool), in their order, then zeros: [B, P, ...].

    P is the largest number of them in an example.
    """
    counts = asked.sum(dim=1, keepdim=True)
    places = torch.arange(int(counts.max()), device=asked.device)
    order = (~asked).int().argsort(dim=1, stable=True)[:, : len(places)]
    taken = values[torch.arange(len(values), device=asked.device)[:, None], order]
    beyond = places >= counts
    return taken.masked_fill(beyond.reshape(*beyond.shape, *[1] * (values.dim() - 2)), 0)
