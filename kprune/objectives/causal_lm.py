"""Language models: every token predicts the next one."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kprune.objectives.base import IGNORED
from kprune.objectives.vocabulary_head import VocabularyHead


class CausalLM(VocabularyHead):
    """Compare next-token logits at all real tokens. Labels are the input tokens, -100 at padding."""

    name = "causal_lm"
    class_suffixes = ("ForCausalLM", "LMHeadModel")
    auto_class = "AutoModelForCausalLM"

    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        return output.logits.masked_fill(attention_mask[..., None] == 0, 0.0)

    def crop(self, logits: Tensor, length: int) -> Tensor:
        return logits[:length].clone()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
