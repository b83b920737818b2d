"""Encoders whose layers have different widths. Shipped with every pruned checkpoint: needs torch and transformers alone.

A pruned checkpoint's config carries `kept_heads` and `kept_neurons`, one number per layer. The stock model is built
first, then each layer's linear modules are narrowed to those widths; a sublayer without units keeps its residual
connection, its layer norm and its output bias, and costs nothing more. A model saved with `save_pretrained`, as the
Trainer does, takes this file along.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertModel,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraModel,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaModel,
)

FORMAT = 1
"""Of a pruned checkpoint: `kprune_format` in config.json. Raised when older code would read a new checkpoint wrongly."""


class OutputBias(nn.Module):
    """What is left of an output projection without inputs: its bias, broadcast over all positions."""

    def __init__(self, bias: torch.Tensor):
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, features):
        return self.bias


class EmptySelfAttention(nn.Module):
    """In place of BERT's self-attention without heads."""

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states, None


class EmptyAttention(nn.Module):
    """In place of DistilBERT's attention without heads."""

    def __init__(self, bias: torch.Tensor):
        super().__init__()
        self.out_lin = OutputBias(bias)

    def forward(self, hidden_states, *args, **kwargs):
        return self.out_lin(hidden_states), None


class EmptyFFN(nn.Module):
    """In place of DistilBERT's feed-forward network without neurons."""

    def __init__(self, bias: torch.Tensor):
        super().__init__()
        self.lin2 = OutputBias(bias)

    def forward(self, hidden_states):
        return self.lin2(hidden_states)


@dataclass(frozen=True)
class SublayerNames:
    """Where a sublayer's linear modules are, as paths below a layer."""

    inputs: tuple[str, ...]
    output: str
    norm: str

    def empty(self, layer: nn.Module, replacements: dict) -> None:
        bias = layer.get_submodule(self.output).bias.detach().clone()
        for path, build in replacements.items():
            layer.set_submodule(path, build(bias))


@dataclass(frozen=True)
class Layout:
    """The names of one family's modules, and what stands in for a sublayer without units."""

    encoder: str
    mha: SublayerNames
    ffn: SublayerNames
    empty_mha: dict
    empty_ffn: dict


BERT = Layout(
    encoder="encoder",
    mha=SublayerNames(
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
        "attention.output.LayerNorm",
    ),
    ffn=SublayerNames(("intermediate.dense",), "output.dense", "output.LayerNorm"),
    empty_mha={"attention.self": lambda bias: EmptySelfAttention(), "attention.output.dense": OutputBias},
    empty_ffn={"intermediate": lambda bias: nn.Identity(), "output.dense": OutputBias},
)
DISTILBERT = Layout(
    encoder="transformer",
    mha=SublayerNames(("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attention.out_lin", "sa_layer_norm"),
    ffn=SublayerNames(("ffn.lin1",), "ffn.lin2", "output_layer_norm"),
    empty_mha={"attention": EmptyAttention},
    empty_ffn={"ffn": EmptyFFN},
)
LAYOUTS = {"bert": BERT, "roberta": BERT, "electra": BERT, "distilbert": DISTILBERT}


def empty_sublayer(layer: nn.Module, layout: Layout, kind: str) -> None:
    """Take all units out of a layer's `kind` sublayer ("mha" or "ffn")."""
    names, replacements = (layout.mha, layout.empty_mha) if kind == "mha" else (layout.ffn, layout.empty_ffn)
    names.empty(layer, replacements)


def check_widths(config, layers: nn.ModuleList, layout: Layout) -> None:
    """Raises ValueError where the config's format or widths are not ones that this file can build."""
    if getattr(config, "kprune_format", FORMAT) != FORMAT:
        raise ValueError(
            f"config.json says kprune_format {config.kprune_format}, this code reads {FORMAT}: another version of kprune saved it"
        )
    for name, unit_size, inputs in (
        ("kept_heads", config.hidden_size // config.num_attention_heads, layout.mha.inputs),
        ("kept_neurons", 1, layout.ffn.inputs),
    ):
        widths = getattr(config, name, None)
        if not isinstance(widths, list):
            raise ValueError(f"config.json has no list {name}")
        if len(widths) != len(layers):
            raise ValueError(f"config.json lists {len(widths)} {name} for {len(layers)} layers")
        for layer, width in zip(layers, widths, strict=True):
            most = layer.get_submodule(inputs[0]).out_features // unit_size
            if not isinstance(width, int) or not 0 <= width <= most:
                raise ValueError(f"config.json lists {width} in {name}, of {most} at most")


def narrow(model: nn.Module) -> None:
    """Narrow a freshly built stock model to the widths in its config (new, uninitialised weights)."""
    config = model.config
    layout = LAYOUTS[config.model_type]
    layers = model.base_model.get_submodule(layout.encoder).layer
    check_widths(config, layers, layout)
    head_size = config.hidden_size // config.num_attention_heads
    for layer, heads, neurons in zip(layers, config.kept_heads, config.kept_neurons, strict=True):
        for kind, names, width in (("mha", layout.mha, heads * head_size), ("ffn", layout.ffn, neurons)):
            if width == 0:
                empty_sublayer(layer, layout, kind)
                continue
            for path in names.inputs:
                layer.set_submodule(path, nn.Linear(config.hidden_size, width))
            layer.set_submodule(names.output, nn.Linear(width, config.hidden_size))


class _Narrow:
    """Mixed in before a stock class: builds it, then narrows it."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        narrow(self)

    @classmethod
    def from_pretrained(cls, folder, *args, output_loading_info=False, ignore_mismatched_sizes=False, **kwargs):
        """As any model's; weights that don't fit the config's widths raise a ValueError, where transformers would go
        on with freshly drawn ones."""
        model, info = super().from_pretrained(
            folder, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
        resized = [entry[0] for entry in info["mismatched_keys"]]
        layers = f"{LAYOUTS[model.config.model_type].encoder}.layer."
        wrong = [key for key in (*info["missing_keys"], *info["unexpected_keys"], *resized) if layers in key]
        wrong += [] if ignore_mismatched_sizes else resized
        if wrong:
            raise ValueError(f"config.json and model.safetensors of {folder} disagree about {min(wrong)}")
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, *args, **kwargs):
        super().save_pretrained(save_directory, *args, **kwargs)
        if Path(save_directory).is_dir():
            shutil.copy(__file__, Path(save_directory) / "modeling_kprune.py")


class PrunedBertModel(_Narrow, BertModel):
    pass


class PrunedBertForSequenceClassification(_Narrow, BertForSequenceClassification):
    pass


class PrunedBertForQuestionAnswering(_Narrow, BertForQuestionAnswering):
    pass


class PrunedRobertaModel(_Narrow, RobertaModel):
    pass


class PrunedRobertaForSequenceClassification(_Narrow, RobertaForSequenceClassification):
    pass


class PrunedRobertaForQuestionAnswering(_Narrow, RobertaForQuestionAnswering):
    pass


class PrunedElectraModel(_Narrow, ElectraModel):
    pass


class PrunedElectraForSequenceClassification(_Narrow, ElectraForSequenceClassification):
    pass


class PrunedElectraForQuestionAnswering(_Narrow, ElectraForQuestionAnswering):
    pass


class PrunedDistilBertModel(_Narrow, DistilBertModel):
    pass


class PrunedDistilBertForSequenceClassification(_Narrow, DistilBertForSequenceClassification):
    pass


class PrunedDistilBertForQuestionAnswering(_Narrow, DistilBertForQuestionAnswering):
    pass
