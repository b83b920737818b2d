"""Regression: values in place of classes."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kprune.objectives.base import Objective
from kprune.types import Model


class Regression(Objective):
    """Compare values [B], or [B, outputs] if there are several, by their squared error, summed over the outputs.

    The temperature has no meaning here.
    """

    name = "regression"
    class_suffixes = ("ForSequenceClassification",)
    auto_class = "AutoModelForSequenceClassification"
    problem_type = "regression"

    @classmethod
    def fits(cls, model: Model) -> bool:
        return super().fits(model) and (model.config.problem_type == cls.problem_type or model.config.num_labels == 1)

    def label_shape(self, model: Model, tokens: int) -> list[int]:
        outputs: Any = model.config.num_labels
        return [outputs] if outputs > 1 else []

    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        return output.logits.squeeze(-1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return _outputs((student - teacher) ** 2).sum(dim=1)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        return [2**0.5 * value for value in _outputs(logits).unbind(dim=1)]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(logits, labels.to(logits.dtype))


def _outputs(values: Tensor) -> Tensor:
    """Return values as [B, outputs], from [B] if there is one output."""
    return values.reshape(len(values), -1)
