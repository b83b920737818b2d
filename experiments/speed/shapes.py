"""Models of random weights for measuring speed, and the numbers of units that a pruned model keeps in each block."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import yaml
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from experiments.config.composing import CONF
from kprune.models import view_of
from kprune.models.flops import model_flops
from kprune.models.surgery import keep_units


@dataclass(frozen=True)
class Shape:
    """The numbers of layers, hidden features, heads in a layer and neurons in a layer of a BERT."""

    layers: int
    hidden: int
    heads: int
    neurons: int


SHAPES = {
    "bert_base": Shape(12, 768, 12, 3072),
    "minilm": Shape(6, 384, 12, 1536),
    "tiny": Shape(2, 48, 12, 768),
}


def random_model(shape: Shape) -> nn.Module:
    """Return a BERT for sequence classification, with weights drawn with seed 0, in evaluation mode."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.neurons,
    )
    return BertForSequenceClassification(config).eval()


@dataclass(frozen=True)
class DecoderShape:
    """The shape of a Llama whose word embedding is also its head.

    Attributes:
        layers: number of layers.
        hidden: number of hidden features.
        heads: number of query heads in a layer.
        groups: number of key and value heads in a layer.
        neurons: number of neurons in a layer.
        tokens: number of tokens in the vocabulary.
    """

    layers: int
    hidden: int
    heads: int
    groups: int
    neurons: int
    tokens: int


DECODERS = {"smollm2": DecoderShape(30, 576, 9, 3, 1536, 49152)}


def random_decoder(shape: DecoderShape) -> nn.Module:
    """Return a Llama with weights drawn with seed 0, in evaluation mode."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.tokens,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        intermediate_size=shape.neurons,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def even_shares(shape: Shape, kept: float) -> tuple[list[float], list[float]]:
    """Return the kept shares of heads and of neurons, [layers] each, with the same share of neurons in every layer.

    The share of heads is rounded to whole heads, so that it may differ by one head between layers; the total is kept.
    """
    edges = [round(kept * shape.heads * layer) for layer in range(shape.layers + 1)]
    return [(b - a) / shape.heads for a, b in zip(edges, edges[1:], strict=False)], [kept] * shape.layers


def reference_shares(shape: Shape) -> tuple[list[float], list[float]]:
    """Return the kept shares of heads and of neurons, [layers] each, of the MRPC reference, stretched over the layers of the shape."""
    reference = yaml.safe_load((CONF / "allocation" / "mrpc_reference.yaml").read_text())
    source = [layer * len(reference["kept_heads"]) // shape.layers for layer in range(shape.layers)]
    return (
        [reference["kept_heads"][i] / reference["heads"] for i in source],
        [reference["kept_neurons"][i] / reference["neurons"] for i in source],
    )


REDUCTION = 0.8
"""Share of the FLOPs that the allocations remove."""
ALLOCATIONS = {"even": lambda shape: even_shares(shape, 0.2), "mrpc_reference": reference_shares}


def kept_counts(shape: Shape, allocation: str, sequence_length: int, grain: int = 1) -> tuple[list[int], list[int]]:
    """Return the numbers of heads and of neurons of each layer, [layers] each, after the removal of `REDUCTION` of the FLOPs.

    The heads are those of the allocation; the neurons are in the proportions of the allocation, as many as the FLOPs allow.

    Args:
        shape: the shape of the dense model.
        allocation: a name of `ALLOCATIONS`.
        sequence_length: length of a sequence, in tokens, at which FLOPs are counted.
        grain: the numbers of neurons are multiples of it.
    """
    head_shares, neuron_shares = ALLOCATIONS[allocation](shape)
    heads = [round(share * shape.heads) for share in head_shares]
    attention, ffn = view_of(random_model(Shape(1, shape.hidden, shape.heads, 1))).blocks
    head, neuron = attention.unit_flops(sequence_length), ffn.unit_flops(sequence_length)
    budget = (1 - REDUCTION) * shape.layers * (shape.heads * head + shape.neurons * neuron)
    room = int((budget * (1 + 1e-12) - sum(heads) * head) // neuron)
    return heads, _dealt(neuron_shares, room, shape.neurons, grain)


def _dealt(shares: Sequence[float], room: int, most: int, grain: int) -> list[int]:
    """Return the number of neurons of each layer, in proportion to `shares`, at most `room` in all and at most `most` in a layer.

    The numbers are multiples of `grain`: they are rounded down, and the rest goes to the layers that lost most by the rounding.
    """
    exact = [share * room / sum(shares) for share in shares]
    dealt = [min(int(count // grain) * grain, most) for count in exact]
    for layer in sorted(range(len(exact)), key=lambda i: dealt[i] - exact[i]):
        if sum(dealt) + grain <= room and dealt[layer] + grain <= most:
            dealt[layer] += grain
    return dealt


def pruned_to(model: nn.Module, heads: Sequence[int], neurons: Sequence[int]) -> nn.Module:
    """Return a copy of a model that keeps the first units of each block, because the choice of units does not change the time.

    Args:
        model: the dense model.
        heads: number of kept heads (or groups of heads) of each layer.
        neurons: number of kept neurons of each layer.
    """
    pruned = copy.deepcopy(model)
    kept = {"heads": heads, "neurons": neurons}
    for block in view_of(pruned).blocks:
        keep_units(block, torch.arange(kept[block.kind][block.layer]))
    return pruned


def flops_ratio(dense: nn.Module, pruned: nn.Module, sequence_length: int) -> float:
    """Return the FLOPs of the dense model divided by those of the pruned model, at a sequence length in tokens."""
    a, b = (model_flops(view_of(model), sequence_length) for model in (dense, pruned))
    return a / b
