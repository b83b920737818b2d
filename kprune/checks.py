"""Checks of a user's own model: what would only be found after the pruning, or in the middle of it."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from kprune.checkpoint import check_saveable
from kprune.errors import UserError, one_line
from kprune.models import view_of
from kprune.models.copies import frozen_shared_copy
from kprune.models.families import family_of
from kprune.models.inputs import longest_input, padding_of
from kprune.models.modeling_kprune import select_heads
from kprune.objectives import Objective
from kprune.precision import computes_in_float64
from kprune.types import Model

ATTENTION = ("eager", "sdpa")
"""Implementations of attention that give the same masks, whatever runs them."""
OWN_HOOKS = ("transformers", "accelerate", "torch")
"""Packages whose hooks on a model go along with what they are set by, and change no answer."""


def check_class(model: Any) -> None:
    """Check that a model is one of transformers', and not wrapped.

    Raises:
        UserError: it is wrapped, or not one of transformers'.
    """
    if isinstance(model, PreTrainedModel):
        return
    kind = type(model).__name__
    inner = [name for name, child in getattr(model, "_modules", {}).items() if isinstance(child, PreTrainedModel)]
    if inner:
        raise UserError(f"the model is wrapped in a {kind}: give the model inside it, model.{inner[0]}")
    raise UserError(f"'{kind}' is not supported: give a model of transformers, its adapters merged into it")


def check_model(model: Model, objective: Objective) -> None:
    """Check that a transformers model can be pruned, and saved as the function that it is.

    Raises:
        UserError: its weights, attention or modules rule it out; the message says which.
    """
    _check_weights(model)
    check_padding(model, objective)
    longest_input(model)  # its error names the remedy; `check_saveable` would only report a difference
    attention = getattr(model.config, "_attn_implementation", None)
    if attention not in (None, *ATTENTION):
        raise UserError(
            f"attn_implementation='{attention}' is not supported while pruning: call model.set_attn_implementation('sdpa'); "
            "the saved model loads with any implementation"
        )
    check_saveable(model)
    for name, hook in _hooks(model):
        if not _changes_nothing(hook):
            raise UserError(
                f"{name or 'the model'} has a forward hook, which may change what it computes and is not saved: remove it "
                "while pruning (handle.remove())"
            )
    if not any(block.units for block in view_of(model).blocks):
        raise UserError("the model has no head and no neuron left: there is nothing to prune")
    try:
        frozen_shared_copy(model)
    except Exception as error:  # whatever an attribute of the user's own makes of being copied
        raise UserError(
            f"the model can't be copied ({one_line(error, 120)}): remove the attributes that you set on it or its modules"
        ) from error


@torch.no_grad()
def _check_weights(model: Model) -> None:
    weights = dict(model.named_parameters())
    places = {str(tensor.device) for tensor in chain(weights.values(), model.buffers())}
    if "meta" in places:
        raise UserError(
            "weights of the model are on the meta device, or offloaded: load it whole, without a device_map"
        )
    if len(places) > 1:
        raise UserError(
            f"the model is spread over {' and '.join(sorted(places))}: move it to one device, model.to('cpu')"
        )
    (place,) = places
    if not computes_in_float64(place):
        raise UserError(
            f"the model is on {place}, which does not compute in float64: move it to the CPU, model.to('cpu')"
        )
    for name, weight in weights.items():
        if weight.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"{name} is {weight.dtype}, too coarse to measure and solve with: load the model in float32 "
                f"(from_pretrained(..., dtype='float32') or model.float()) and convert what is pruned"
            )
    check_finite(model)
    if len({weight.dtype for weight in weights.values()}) > 1:
        raise UserError("the model has weights in float32 and in float64: convert all to one, model.float()")


def check_finite(model: Model, called: str = "the model") -> None:
    """Check that every weight is finite.

    Args:
        called: what the message calls the model.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(f"{name} has values that are NaN or infinite: {called} is damaged, give another")


def check_layers(folder: Path, model: Model, unexpected: Iterable[str]) -> None:
    """Check that a model was not built with fewer layers than its checkpoint has: transformers leaves the others out.

    Args:
        unexpected: names of the weights that the checkpoint has and the model does not.

    Raises:
        UserError: the model has fewer layers than the checkpoint.
    """
    # Weights alone: older checkpoints have buffers that are no longer saved.
    of_a_layer = re.compile(rf"(.*\.)?{re.escape(family_of(model).layers)}\.\d+\..*\.weight")
    dropped = [name for name in unexpected if of_a_layer.fullmatch(name)]
    if dropped:
        raise UserError(
            f"{folder} has weights of {min(dropped).removesuffix('.weight')}, which a {type(model).__name__} by its config.json does "
            "not have: copy both from one checkpoint"
        )


def check_padding(model: Model, objective: Objective) -> None:
    """Check that a head on the last token can tell which one that is.

    Raises:
        UserError: the config has no padding token by which it could.
    """
    if reads_padding(model, objective) and model.config.pad_token_id != padding_of(model):
        raise UserError(
            f"the model's config has pad_token_id={model.config.pad_token_id}, and a {type(model).__name__} finds the last token "
            "by it: set it to a token of the vocabulary"
        )


def reads_padding(model: Model, objective: Objective) -> bool:
    """Tell whether a model has a head on the last token, which it finds by the padding's number, not by the mask."""
    bare = model.base_model is model
    return (
        not bare
        and family_of(model).reads_last_token
        and bool(objective.read_tokens(torch.ones(1, 2), True).sum() == 1)
    )


def _changes_nothing(hook: Any) -> bool:
    """Tell whether a hook comes from `OWN_HOOKS`, or is `select_heads` of a pruned attention.

    The latter may come from the copy of the modeling file in a checkpoint's folder.
    """
    module = getattr(hook, "__module__", None) or ""
    return module.partition(".")[0] in OWN_HOOKS or (
        getattr(hook, "__name__", None) == select_heads.__name__ and module.endswith("modeling_kprune")
    )


def _hooks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield each module's name with each hook that is called before or after its forward."""
    for name, module in model.named_modules():
        for hook in chain(module._forward_hooks.values(), module._forward_pre_hooks.values()):
            yield name, hook
