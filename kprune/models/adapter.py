"""What a pruner must know of a transformer: its prunable sublayers, bottom to top, and how to run them one by one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from kprune.checkpoint.modeling_kprune import Layout, OutputBias, SublayerNames, empty_sublayer
from kprune.models.flops import head_flops, neuron_flops


class Sublayer(ABC):
    """One MHA or FFN: `norm(x + projection(features(x)))`.

    A unit (an attention head or a neuron) owns `unit_size` rows of every input linear module and `unit_size` columns
    of the output projection. All properties read the live modules, so they follow surgery.
    """

    kind: str  # "mha" or "ffn"

    def __init__(self, layer: nn.Module, index: int, layout: Layout, names: SublayerNames, unit_size: int):
        self.layer, self.index, self.layout, self.names, self.unit_size = layer, index, layout, names, unit_size

    @property
    def inputs(self) -> list[nn.Linear]:
        """The linear modules whose output rows belong to the units: query, key and value, or the first of an FFN."""
        return [self.layer.get_submodule(name) for name in self.names.inputs]

    @property
    def projection(self) -> nn.Linear | OutputBias:
        """The output projection W_out of the paper."""
        return self.layer.get_submodule(self.names.output)

    @property
    def units(self) -> int:
        """Heads or neurons present."""
        # The class that stands in for an emptied projection may be a checkpoint's own copy of OutputBias.
        return self.projection.in_features // self.unit_size if isinstance(self.projection, nn.Linear) else 0

    @property
    def hidden_size(self) -> int:
        """d, the width of the residual connection."""
        return self.norm.normalized_shape[0]

    @abstractmethod
    def features(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """f(X), the input of the output projection: [B, T, units * unit_size]."""

    @abstractmethod
    def unit_flops(self, sequence_length: float) -> float:
        """FLOPs of one unit on one sequence."""

    def update(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Sub(X), what the sublayer adds to its residual: [B, T, d] ([d] where no unit is left)."""
        if self.units == 0:
            return self.projection.bias
        return self.projection(self.features(hidden, attention_mask))

    @property
    def norm(self) -> nn.LayerNorm:
        """The norm behind the residual connection; its output is the next sublayer's input."""
        return self.layer.get_submodule(self.names.norm)

    def add(self, hidden: Tensor, update: Tensor) -> Tensor:
        """The residual connection and the norm behind it: [B, T, d], the next sublayer's input."""
        return self.norm(hidden + update)

    def run(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The whole sublayer without dropout: [B, T, d] to [B, T, d]."""
        return self.add(hidden, self.update(hidden, attention_mask))

    def empty(self) -> None:
        """Take all units out; the residual connection, the norm and the output bias stay."""
        empty_sublayer(self.layer, self.layout, self.kind)


class Attention(Sublayer):
    kind = "mha"

    def unit_flops(self, sequence_length: float) -> float:
        return head_flops(sequence_length, self.hidden_size, self.unit_size)


class FFN(Sublayer):
    kind = "ffn"

    def unit_flops(self, sequence_length: float) -> float:
        return neuron_flops(sequence_length, self.hidden_size)


class Adapter:
    """A model seen as embeddings, a list of sublayers, and a head."""

    def __init__(self, model: nn.Module, layout: Layout, attention: type[Attention], ffn: type[FFN]):
        self.model = model
        self.encoder = model.base_model.get_submodule(layout.encoder)
        head_size = model.config.hidden_size // model.config.num_attention_heads
        self.sublayers: list[Sublayer] = []
        for index, layer in enumerate(self.encoder.layer):
            self.sublayers.append(attention(layer, index, layout, layout.mha, head_size))
            self.sublayers.append(ffn(layer, index, layout, layout.ffn, 1))

    @property
    def device(self) -> torch.device:
        return self.model.device

    def embed(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The first sublayer's input [B, T, d], and the attention mask in the form that sublayers take."""
        seen = []

        def catch(hidden_states, attention_mask=None, **kwargs):
            seen.append((hidden_states, attention_mask))
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden_states)

        with self._encoder_replaced(catch):
            self.model(**model_inputs(batch))
        return seen[0]

    def head(self, hidden: Tensor, batch: dict[str, Tensor]):
        """The model's output for the last sublayer's output [B, T, d], by the model's own head."""

        def skip(hidden_states, attention_mask=None, **kwargs):
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)

        with self._encoder_replaced(skip):
            return self.model(**model_inputs(batch))

    def run(self, start: int, hidden: Tensor, attention_mask: Tensor | None, batch: dict[str, Tensor]):
        """From the input of sublayer `start` to the model's output."""
        for sublayer in self.sublayers[start:]:
            hidden = sublayer.run(hidden, attention_mask)
        return self.head(hidden, batch)

    @contextmanager
    def _encoder_replaced(self, forward) -> Iterator[None]:
        # The model's own forward builds masks, embeddings and heads; only what lies between them is taken over.
        self.encoder.forward = forward
        try:
            yield
        finally:
            del self.encoder.forward


def longest_input(model: nn.Module) -> int:
    """Tokens that a model reads at most."""
    config = model.config
    # RoBERTa's positions begin behind that of the padding.
    return config.max_position_embeddings - (config.pad_token_id + 1 if config.model_type == "roberta" else 0)


def on_device(batch: dict[str, Tensor], device: str | torch.device) -> dict[str, Tensor]:
    """A collated batch where the model is."""
    return {key: value.to(device) for key, value in batch.items()}


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a collated batch that a model's forward takes."""
    return {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch}
