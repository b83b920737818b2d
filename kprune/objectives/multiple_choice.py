"""Multiple choice: which of the choices of an example is meant, one softmax over them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kprune.objectives.base import EXACT_CLASSES, Objective, excluded_logit, kl_divergence, random_signs, softmax_roots
from kprune.types import Model


class MultipleChoice(Objective):
    """Compare logits [B, C] by the KL over each example's choices; the loss is the cross-entropy.

    C is the largest number of choices in the batch. An example with fewer has logits behind its own that have no part in the
    softmax (`excluded_logit`). A label is the number of the right choice.
    """

    name = "multiple_choice"
    class_suffixes = ("ForMultipleChoice",)
    auto_class = "AutoModelForMultipleChoice"
    of_choices = True

    def label_values(self, model: Model, example: dict[str, Any]) -> int | None:
        return len(example["choices"])

    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        """Return a logit for each choice of all examples: [R]."""
        return output.logits.flatten()

    def answers(self, output: Any, batch: dict[str, Tensor]) -> Tensor:
        logits = self.read(output, batch["attention_mask"])
        own = logits.split(batch["choices"].tolist())
        return pad_sequence(own, batch_first=True, padding_value=excluded_logit(logits.dtype))

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return kl_divergence(student, teacher, temperature)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        """Return a root for each choice; of an example with more than `EXACT_CLASSES`, one with random signs, the others zero.

        Only the example's own number of choices decides, not those of the batch.
        """
        count = logits.shape[-1]
        few = (logits > excluded_logit(logits.dtype) / 2).sum(dim=-1) <= EXACT_CLASSES
        exact = torch.eye(count, dtype=logits.dtype, device=logits.device)[:, : EXACT_CLASSES if few.any() else 1]
        sampled = F.pad(random_signs(keys, count, 0)[..., None].to(logits.dtype), (0, exact.shape[1] - 1))
        signs = torch.where(few[:, None, None], exact, sampled)
        return list(softmax_roots(logits, temperature, signs).unbind(dim=-1))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)
