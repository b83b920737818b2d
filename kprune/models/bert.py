"""BERT, RoBERTa and ELECTRA: the same modules under the same names."""

from torch import Tensor

from kprune.models.adapter import FFN, Attention


class BertAttention(Attention):
    def features(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.layer.attention.self(hidden, attention_mask=attention_mask)[0]


class BertFFN(FFN):
    def features(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.layer.intermediate(hidden)
