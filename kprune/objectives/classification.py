"""Classifiers of sequences: one softmax over classes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.errors import UserError
from kprune.objectives.base import EXACT_CLASSES, Objective, kl_divergence, random_signs, softmax_roots
from kprune.types import Model


class Classification(Objective):
    """Compare logits [B, classes] by the KL divergence; the loss is the cross-entropy."""

    name = "classification"
    class_suffixes = ("ForSequenceClassification",)
    auto_class = "AutoModelForSequenceClassification"
    problem_type = "single_label_classification"

    @classmethod
    def fits(cls, model: Model) -> bool:
        if not super().fits(model):
            return False
        if model.config.num_labels == 1:
            raise UserError(
                f"{type(model).__name__} has one output, and a softmax over one class is constant: give task='regression'"
            )
        if model.config.problem_type == "multi_label_classification":
            raise UserError(
                f"{type(model).__name__} has problem_type='multi_label_classification', which no KL of one softmax compares: "
                "give task='multi_label'"
            )
        return True

    def label_values(self, model: Model, example: dict[str, Any]) -> int | None:
        return model.config.num_labels

    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        return output.logits

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return kl_divergence(student, teacher, temperature)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        classes = logits.shape[-1]
        if classes == 2:
            p = F.softmax(logits.detach() / temperature, dim=-1)
            return [p.prod(dim=-1).sqrt() * (logits[:, 1] - logits[:, 0])]
        if classes <= EXACT_CLASSES:
            signs = torch.eye(classes, dtype=logits.dtype, device=logits.device)
        else:
            signs = random_signs(keys, classes, 0)[..., None].to(logits.dtype)
        return list(softmax_roots(logits, temperature, signs).unbind(dim=-1))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)
