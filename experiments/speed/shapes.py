"""Models of random weights, and how much of each block a pruned one keeps: what speed is measured on."""

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
    """A BERT's layers, width, heads and neurons."""

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
    """Return a sequence classifier with weights drawn with seed 0, in evaluation mode."""
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
    """A Llama's layers, width, query heads, key/value heads, neurons and tokens, whose embedding is its head, too."""

    layers: int
    hidden: int
    heads: int
    groups: int
    neurons: int
    tokens: int


DECODERS = {"smollm2": DecoderShape(30, 576, 9, 3, 1536, 49152)}


def random_decoder(shape: DecoderShape) -> nn.Module:
    """Return a language model with weights drawn with seed 0, in evaluation mode."""
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
    """Return the same share of heads and of neurons in every layer; whole heads are dealt out evenly."""
    edges = [round(kept * shape.heads * layer) for layer in range(shape.layers + 1)]
    return [(b - a) / shape.heads for a, b in zip(edges, edges[1:], strict=False)], [kept] * shape.layers


def reference_shares(shape: Shape) -> tuple[list[float], list[float]]:
    """Return those of the MRPC reference, its layers stretched over this shape's."""
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
    """Return heads and neurons per layer if `REDUCTION` of the FLOPs go: the allocation's heads, and as many of its neurons as fit.

    Neurons are multiples of `grain`, within the FLOPs.
    """
    head_shares, neuron_shares = ALLOCATIONS[allocation](shape)
    heads = [round(share * shape.heads) for share in head_shares]
    attention, ffn = view_of(random_model(Shape(1, shape.hidden, shape.heads, 1))).blocks
    head, neuron = attention.unit_flops(sequence_length), ffn.unit_flops(sequence_length)
    budget = (1 - REDUCTION) * shape.layers * (shape.heads * head + shape.neurons * neuron)
    room = int((budget * (1 + 1e-12) - sum(heads) * head) // neuron)
    return heads, _dealt(neuron_shares, room, shape.neurons, grain)


def _dealt(shares: Sequence[float], room: int, most: int, grain: int) -> list[int]:
    """Deal out at most `room` neurons by shares, in grains; what rounding down leaves goes to those who lost most by it."""
    exact = [share * room / sum(shares) for share in shares]
    dealt = [min(int(count // grain) * grain, most) for count in exact]
    for layer in sorted(range(len(exact)), key=lambda i: dealt[i] - exact[i]):
        if sum(dealt) + grain <= room and dealt[layer] + grain <= most:
            dealt[layer] += grain
    return dealt


def pruned_to(model: nn.Module, heads: Sequence[int], neurons: Sequence[int]) -> nn.Module:
    """Return a copy with the first so many heads (or groups) and neurons of each layer: which ones makes no difference to the clock."""
    pruned = copy.deepcopy(model)
    kept = {"heads": heads, "neurons": neurons}
    for block in view_of(pruned).blocks:
        keep_units(block, torch.arange(kept[block.kind][block.layer]))
    return pruned


def flops_ratio(dense: nn.Module, pruned: nn.Module, sequence_length: int) -> float:
    """Return how many times fewer FLOPs the pruned model has at a length."""
    a, b = (model_flops(view_of(model), sequence_length) for model in (dense, pruned))
    return a / b
