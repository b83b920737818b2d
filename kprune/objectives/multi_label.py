"""Classifiers that give several labels to one text: a yes or no for each label."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.objectives.base import EXACT_CLASSES, Objective, random_signs
from kprune.types import Model


class MultiLabel(Objective):
    """Compare logits [B, labels] by the KL of each label's yes or no, summed over the labels.

    Labels are [B, labels] of zeros and ones; the loss is the mean of their binary cross-entropies.
    """

    name = "multi_label"
    class_suffixes = ("ForSequenceClassification",)
    auto_class = "AutoModelForSequenceClassification"
    problem_type = "multi_label_classification"
    labels_of = "output"

    @classmethod
    def fits(cls, model: Model) -> bool:
        return super().fits(model) and model.config.problem_type == cls.problem_type

    def label_values(self, model: Model, example: dict[str, Any]) -> int | None:
        return 2

    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        return output.logits

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        s, t = student / temperature, teacher / temperature
        yes = torch.sigmoid(s) * (F.logsigmoid(s) - F.logsigmoid(t))
        no = torch.sigmoid(-s) * (F.logsigmoid(-s) - F.logsigmoid(-t))
        return temperature**2 * (yes + no).sum(dim=-1)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        """Return √(p (1 − p)) z of every label or, if there are many, their sum with random signs."""
        z = logits.detach() / temperature
        roots = (torch.sigmoid(z) * torch.sigmoid(-z)).sqrt() * logits
        if logits.shape[-1] <= EXACT_CLASSES:
            return list(roots.unbind(dim=-1))
        return [(random_signs(keys, logits.shape[-1], 0).to(logits.dtype) * roots).sum(dim=-1)]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
