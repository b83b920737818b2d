"""Which class a pruned model is: one of the shipped modeling file's, so that `save_pretrained` writes what loads anywhere."""

import copy
import tempfile
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.models.auto import modeling_auto

from kprune.errors import UserError, one_line
from kprune.models import Block, ModelView, modeling_kprune, view_of
from kprune.models.families import family_of
from kprune.models.family import Family
from kprune.models.modeling_kprune import FORMAT, PREFIX, Emptied, OutputBias, Pruned, pruned_class, sizes
from kprune.models.surgery import width_attributes
from kprune.objectives import OBJECTIVES
from kprune.quiet import quiet_transformers
from kprune.types import Model

ADDED = ("kprune", "auto_map")
"""What the config of a pruned model has beyond the stock one's."""
DENSE, UNIFORM = "kprune_dense", "kprune_uniform"
"""Entries in the config of a stock model that kprune saved: with zeros in place of removed units, or all layers alike."""
PLAIN = (bool, int, float, str, type(None))
"""Types of a module's settings; what is of another type is a module, a tensor or made of these."""
IGNORED_SETTINGS = {
    *("in_features", "out_features", "nx", "nf", "num_embeddings", "embedding_dim", "vocab_size"),
    *("training", "gradient_checkpointing", "attn_implementation", "name_or_path", "layer_idx"),
    *("max_seq_len_cached", "original_max_seq_len"),
}
"""Plain attributes that no answer depends on: sizes, which the weights have, too; modes; a layer's number, which only its cache
uses; and lengths, on which rotary positions depend only if their kind is one of `MOVING`."""
MOVING = ("dynamic", "longrope")
"""Kinds of rotary positions whose frequencies are those of the longest text so far."""
ROUNDED = 1e-2, 1e-7
"""The relative and the absolute error of numbers that were converted to bfloat16 or float16 and back."""


def become_pruned(model: Model) -> Model:
    """Give a narrowed stock model, in place, the modeling file's class, and write its widths into its config.

    The Trainer, or anything else that calls `save_pretrained`, then writes a folder that loads again.

    Raises:
        UserError: the model's class is not one of transformers' own.
    """
    stock = stock_class(model)
    model.config.update(pruned_entries(view_of(model), stock))
    for entry in (DENSE, UNIFORM):  # of a stock model that was saved and pruned again
        if hasattr(model.config, entry):
            delattr(model.config, entry)
    model.__class__ = pruned_class(stock)
    return model


def stock_class(model: Model) -> type:
    """Return the transformers class that a model, pruned or not, comes from.

    Raises:
        UserError: the class is not one of transformers' own, so a saved model would load as another class, the one of that name.
    """
    name = type(model).__name__
    kind = next(base for base in type(model).__mro__ if not is_pruned(base))
    if getattr(transformers, kind.__name__, None) is not kind:
        own = "load it with kprune.load" if name.startswith(PREFIX) else "give a model of a class that transformers has"
        raise UserError(f"{name} is not a class of transformers, and what is saved would load as one that is: {own}")
    return kind


def check_saveable(model: Model) -> None:
    """Check that a model would load as the same function after it is saved.

    It has to be what transformers builds by its class and config, but for the widths of its blocks, and transformers has to be able
    to write its config and generation settings.

    Raises:
        UserError: it would not, or they can't be written; the message names the module or the setting.
    """
    stock, config = stock_class(model), stock_config(model.config)
    try:
        with torch.device("cpu"), WithoutWeights():
            plain = stock(config)
    except Exception as error:  # whatever transformers makes of a config that was changed after the model was built
        raise UserError(
            f"{stock.__name__} is not built by this model's config ({one_line(error, 120)}): give it the config it was built by"
        ) from error
    ours, theirs = dict(model.named_modules()), dict(plain.named_modules())
    stand_ins = tuple(name for name, module in ours.items() if is_stand_in(module))
    # The blocks of the stock model, since a module of ours may be of any class.
    blocks = [module for block in view_of(plain).blocks for module in (block.module, *block.module.modules())]
    in_blocks = {name for name, module in theirs.items() if any(module is inner for inner in blocks)}
    ignored = ignored_settings(family_of(model))
    for name in (*theirs, *(name for name in ours if name not in theirs)):
        if not any(name == path or name.startswith(f"{path}.") for path in stand_ins):
            difference = difference_of(ours.get(name), theirs.get(name), name in in_blocks, not name, ignored)
            if difference:
                raise UserError(
                    f"the model is not what {stock.__name__} is by its config ({name or 'the model'} {difference}), so it would "
                    "load as another function: merge adapters, dequantise, remove masks and changes of your own"
                )
    tied = {name for group in ties_of(model).values() for name in group} ^ {
        name for group in ties_of(plain).values() for name in group
    }
    if tied:
        raise UserError(
            f"{min(tied)} is shared with another weight in the model or by its config, not in both, so it would load as "
            "another function: set config.tie_word_embeddings as it is, give every other module its own copy"
        )
    check_units(view_of(model), view_of(plain))
    check_settings(model, config)


def check_units(view: ModelView, plain: ModelView) -> None:
    """Check that blocks are made of whole units: all rows and columns of each, such as a key head's with all its query heads'.

    Attention runs with fewer query heads in a group, too, but each then reads the keys of another group.

    Args:
        plain: the stock model by the same config.

    Raises:
        UserError: a module has more or fewer rows or columns than its block's units own.
    """
    for block, whole in zip(view.blocks, plain.blocks, strict=True):
        if not block.columns:
            continue
        wrong = {block.site.output: block.columns} if block.columns % block.width else {}
        for rows in block.site.inputs:
            outputs = sizes(block.module.get_submodule(rows.path))[1]
            if outputs != block.units * whole.rows_per_unit(rows):
                wrong[rows.path] = outputs
        if whole.site.per_head:
            check_heads(block, whole, view.family.layers)
        if wrong:
            path, size = next(iter(wrong.items()))
            raise UserError(
                f"{view.family.layers}.{block.layer}.{path} has {size} {'columns' if path == block.site.output else 'rows'}, which "
                f"are not those of whole units of {block.width} columns (of grouped queries, a key head with all its query "
                "heads), so that it would run and compute something else: cut it by whole units"
            )


def check_heads(block: Block, whole: Block, layers: str) -> None:
    """Check that a block reads as many heads of an argument as it has, each once, and each a head of the stock model.

    Args:
        whole: the stock model's block.
        layers: path of the list of layers, for the message.

    Raises:
        UserError: it does not.
    """
    heads = list(range(whole.units)) if block.heads is None else block.heads
    if len(heads) != block.units or len(set(heads)) < len(heads) or not set(heads) <= set(range(whole.units)):
        raise UserError(
            f"{layers}.{block.layer}.{block.site.core[0]} has {block.units} heads and reads heads {heads} of {block.site.per_head}, so "
            "that it would compute something else: remove heads with kprune alone"
        )


def check_settings(model: Model, config: Any) -> None:
    """Check that transformers can write a model's config and, if the model generates, its generation config.

    Raises:
        UserError: it can't.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, quiet_transformers():
            config.save_pretrained(folder)
            if model.can_generate():
                model.generation_config.save_pretrained(folder)
    except Exception as error:  # a value that is no JSON, or one that transformers refuses
        raise UserError(
            f"the model's config or generation_config can't be saved ({one_line(error, 120)}): mend the setting that this names"
        ) from error


def difference_of(
    module: nn.Module | None, stock: nn.Module | None, resized: bool, root: bool, ignored: set[str]
) -> str | None:
    """Return in words how a module differs from the one at its place in the stock model; None if it does not.

    Args:
        resized: whether the module's size may differ.
        root: whether the module is the model itself, whose class was checked.
        ignored: names of the module's settings that may differ.
    """
    if module is None or stock is None:
        return "is missing" if module is None else "is added"
    kinds = type(module), type(stock)
    if kinds[0] is not kinds[1] and not root:
        ours, theirs = (kind.__name__ for kind in kinds)
        return f"is a {ours if ours != theirs else f'{kinds[0].__module__}.{ours}'}, not a {theirs}"
    # Accelerate's wrappers compute the same.
    if "forward" in vars(module) and not hasattr(module, "_hf_hook") and not hasattr(module, "_original_forward"):
        return "has a forward of its own, not its class's"
    here, there = shapes_of(module), shapes_of(stock)
    if here.keys() != there.keys():
        return f"has {' and '.join(here) or 'no weights'}, not {' and '.join(there) or 'none'}"
    if here != there and not resized:
        name = min(name for name in here if here[name] != there[name])
        return f"has a {name} of {here[name]}, not {there[name]}"
    settings = settings_of(module, ignored)
    for name, value in settings_of(stock, ignored).items():
        if settings.get(name) != value:
            return f"has {name}={getattr(module, name, None)}, not {value}"
    moving = any(kind in str(getattr(stock, "rope_type", "")) for kind in MOVING)
    for name in sorted(stock._non_persistent_buffers_set):
        if (not moving or "original" in name) and not is_same(module._buffers.get(name), stock._buffers[name]):
            return f"has another {name}"
    return None


def shapes_of(module: nn.Module) -> dict[str, list[int]]:
    """Return the shapes of a module's own weights and other tensors that are saved, by name."""
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return {name: list(weight.shape) for name, weight in own if name not in module._non_persistent_buffers_set}


def settings_of(module: nn.Module, ignored: set[str]) -> dict[str, Any]:
    """Return a module's own settings, such as the ε of a norm or whether an attention is causal, by name.

    Settings that change no answer are left out: dropout's, and the token whose embedding gets no gradient.
    """
    if "drop" in type(module).__name__.lower():
        return {}
    return {
        name: value
        for name, value in vars(module).items()
        if type(value) in PLAIN
        and name[:1] != "_"
        and name not in ignored
        and not (name == "padding_idx" and isinstance(module, nn.Embedding))
        and (type(value) is bool or "drop" not in name.lower())
    }


def ignored_settings(family: Family) -> set[str]:
    """Return the names of plain attributes of a family's modules that may differ from the stock model's."""
    widths = {path.rpartition(".")[2] for site in family.sites for path in site.attributes}
    return IGNORED_SETTINGS | widths | (set() if family.positions_after_padding else {"padding_idx"})


def is_same(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Tell whether a buffer has the stock model's values, but for a conversion to a coarser type and back."""
    if ours is None or theirs is None:
        return ours is theirs
    if ours.is_meta or ours.shape != theirs.shape:
        return ours.shape == theirs.shape
    theirs = theirs.to(ours.device, ours.dtype)
    return torch.allclose(ours, theirs, *ROUNDED) if ours.is_floating_point() else torch.equal(ours, theirs)


class WithoutWeights(TorchFunctionMode):
    """Build models whose weights take no memory, and whose buffers have their values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Modules make their weights by torch.empty, and compute their buffers by other functions.
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))


def ties_of(model: nn.Module) -> dict[int, list[str]]:
    """Return all names of each weight that has several, by the weight's id."""
    names: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
    return {key: several for key, several in names.items() if len(several) > 1}


def stock_config(config: Any) -> Any:
    """Return a copy of a config without what kprune adds."""
    stock = copy.deepcopy(config)
    for entry in ADDED:
        if hasattr(stock, entry):
            delattr(stock, entry)
    return stock


def is_pruned(kind: type) -> bool:
    """Tell whether a class comes from a modeling file, this package's or the copy in a checkpoint's folder."""
    return kind.__name__ == Pruned.__name__ or (
        kind.__name__.startswith(PREFIX) and any(base.__name__ == Pruned.__name__ for base in kind.__mro__)
    )


def is_stand_in(module: nn.Module) -> bool:
    """Tell whether a module stands in for one without units; its class may be of the modeling file's copy in a folder."""
    kind = type(module)
    return kind.__name__ in (Emptied.__name__, OutputBias.__name__) and kind.__module__.endswith("modeling_kprune")


def pruned_entries(view: ModelView, stock: type) -> dict[str, Any]:
    """Return what the config of a pruned model has beyond the stock one's, and its architecture."""
    modules: dict[str, list[int]] = {}
    attributes: dict[str, int] = {}
    heads: dict[str, dict[str | None, list[int]]] = {}
    for block in view.blocks:
        prefix = f"{view.family.layers}.{block.layer}"
        if block.units:
            for path in (*(rows.path for rows in block.site.inputs), block.site.output):
                modules[f"{prefix}.{path}"] = list(sizes(block.module.get_submodule(path)))
        if block.heads is not None:
            heads[f"{prefix}.{block.site.core[0]}"] = {block.site.per_head: block.heads}
        attributes |= {f"{prefix}.{path}": value for path, value in width_attributes(block).items()}
    return {
        "kprune": {
            "format": FORMAT,
            "layers": view.family.layers,
            "modules": modules,
            "emptied": emptied_modules(view),
            "attributes": attributes,
            **({"heads": heads} if heads else {}),
        },
        "architectures": [f"{PREFIX}{stock.__name__}"],
        "auto_map": auto_map(view.model.config, stock),
    }


def emptied_modules(view: ModelView) -> dict[str, dict[str, Any]]:
    """Return the modules that stand in for those of blocks without units, and the arguments that build them."""
    found: dict[str, dict[str, Any]] = {}
    for layer, module in enumerate(view.layers):
        for path, inner in module.named_modules():
            # A stand-in holds another one inside.
            if is_stand_in(inner) and not any(
                f"{view.family.layers}.{layer}.{path}".startswith(f"{p}.") for p in found
            ):
                found[f"{view.family.layers}.{layer}.{path}"] = inner.arguments()
    return found


def auto_map(config: Any, stock: type) -> dict[str, str]:
    """Return, by the name of each auto class of transformers, the pruned class that it loads from a folder of this family.

    The auto classes are those of the heads that can be pruned, and any other that loads `stock`.
    """
    known = {"AutoModel", *(kind.auto_class for kind in OBJECTIVES.values())}
    classes = {}
    for name in sorted(name for name in dir(modeling_auto) if name.startswith("AutoModel")):
        mapping = getattr(getattr(modeling_auto, name), "_model_mapping", {})
        found = mapping.get(type(config), None)
        if isinstance(found, type) and (name in known or found is stock):
            classes[name] = f"{modeling_kprune.__name__.rsplit('.', 1)[-1]}.{PREFIX}{found.__name__}"
    return classes
