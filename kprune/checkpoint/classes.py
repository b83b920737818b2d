"""Which class a pruned model is: the shipped modeling file's, so that `save_pretrained` writes what loads anywhere."""

from typing import Any

from torch import nn

from kprune.checkpoint import modeling_kprune
from kprune.errors import UserError
from kprune.models import adapter_for

HEADS = ("ForSequenceClassification", "ForQuestionAnswering")


def become_pruned(model: nn.Module) -> nn.Module:
    """Make a narrowed stock model the same model under the modeling file's class, its widths in its config. In place.

    The Trainer, or anything else that calls `save_pretrained`, then writes a folder that loads again.

    Raises:
        UserError: the family or the head is not supported.
    """
    entries = pruned_entries(model)
    (architecture,) = entries["architectures"]
    if not hasattr(modeling_kprune, architecture):
        raise UserError(f"{type(model).__name__} can't be saved pruned: use one of a model, {' or '.join(HEADS)}")
    model.config.update(entries)
    model.__class__ = getattr(modeling_kprune, architecture)
    return model


def pruned_entries(model: nn.Module) -> dict[str, Any]:
    """What the config of a pruned model has beyond the stock one's."""
    sublayers = adapter_for(model).sublayers
    name = stock_name(model)
    base = name
    for head in HEADS:
        base = base.removesuffix(head)
    stem = f"Pruned{base.removesuffix('Model')}"
    auto_map = {f"AutoModel{head}": f"modeling_kprune.{stem}{head}" for head in HEADS}
    return {
        "kprune_format": modeling_kprune.FORMAT,
        "kept_heads": [sublayer.units for sublayer in sublayers[0::2]],
        "kept_neurons": [sublayer.units for sublayer in sublayers[1::2]],
        "architectures": [f"Pruned{name}"],
        "auto_map": {"AutoModel": f"modeling_kprune.{stem}Model", **auto_map},
    }


def stock_name(model: nn.Module) -> str:
    """The name of the transformers class that a model, pruned or not, comes from."""
    return type(model).__name__.removeprefix("Pruned")
