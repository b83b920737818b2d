"""DistilBERT: the output projection is inside the attention module."""

from torch import Tensor, nn

from kprune.models.adapter import FFN, Attention


class DistilBertAttention(Attention):
    def features(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        attention, projection = self.layer.attention, self.layer.attention.out_lin
        attention.out_lin = nn.Identity()
        try:
            return attention(hidden, attention_mask=attention_mask)[0]
        finally:
            attention.out_lin = projection


class DistilBertFFN(FFN):
    def features(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.layer.ffn.activation(self.layer.ffn.lin1(hidden))
