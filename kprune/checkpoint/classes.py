"""Which class a pruned model is: one of the shipped modeling file's, so that `save_pretrained` writes what loads anywhere."""

from typing import Any

import transformers

from kprune.errors import UserError
from kprune.models import ModelView, modeling_kprune, view_of
from kprune.models.modeling_kprune import FORMAT, PREFIX, Pruned, pruned_class, sizes
from kprune.models.surgery import width_attributes
from kprune.objectives import OBJECTIVES
from kprune.types import Model

ADDED = ("kprune", "auto_map")
"""What the config of a pruned model has beyond the stock one's."""


def become_pruned(model: Model) -> Model:
    """Make a narrowed stock model the same model under the modeling file's class, its widths in its config. In place.

    The Trainer, or anything else that calls `save_pretrained`, then writes a folder that loads again.

    Raises:
        UserError: the model's class is none of transformers' own.
    """
    stock = stock_class(model)
    model.config.update(pruned_entries(view_of(model), stock))
    model.__class__ = pruned_class(stock)
    return model


def stock_class(model: Model) -> type:
    """Return the transformers class that a model, pruned or not, comes from.

    Raises:
        UserError: it is not one of transformers' own, but a class of that name would be written and loaded.
    """
    name = type(model).__name__
    kind = next(base for base in type(model).__mro__ if not is_pruned(base))
    if getattr(transformers, kind.__name__, None) is not kind:
        raise UserError(
            f"{name} is not a class of transformers: what it computes could not be saved; give a model of a class that "
            "transformers has, such as one that from_pretrained returns"
        )
    return kind


def is_pruned(kind: type) -> bool:
    """Tell whether a class comes from a modeling file, this package's or the copy in a checkpoint's folder."""
    return kind.__name__ == Pruned.__name__ or (
        kind.__name__.startswith(PREFIX) and any(base.__name__ == Pruned.__name__ for base in kind.__mro__)
    )


def pruned_entries(view: ModelView, stock: type) -> dict[str, Any]:
    """Return what the config of a pruned model has beyond the stock one's, and its architecture."""
    modules: dict[str, list[int]] = {}
    attributes: dict[str, int] = {}
    for block in view.blocks:
        prefix = f"{view.family.layers}.{block.layer}"
        if block.units:
            for path in (*(rows.path for rows in block.site.inputs), block.site.output):
                modules[f"{prefix}.{path}"] = list(sizes(block.module.get_submodule(path)))
        attributes |= {f"{prefix}.{path}": value for path, value in width_attributes(block).items()}
    return {
        "kprune": {
            "format": FORMAT,
            "layers": view.family.layers,
            "modules": modules,
            "emptied": emptied_modules(view),
            "attributes": attributes,
        },
        "architectures": [f"{PREFIX}{stock.__name__}"],
        "auto_map": auto_map(view.model.config, stock),
    }


def emptied_modules(view: ModelView) -> dict[str, dict[str, Any]]:
    """Return the modules that stand in for those of blocks without units, and the arguments that build them."""
    found: dict[str, dict[str, Any]] = {}
    for layer, module in enumerate(view.layers):
        for path, inner in module.named_modules():
            # A stand-in holds another one inside; the classes may be those of a checkpoint's own copy of the file.
            if hasattr(inner, "arguments") and not any(
                f"{view.family.layers}.{layer}.{path}".startswith(f"{p}.") for p in found
            ):
                found[f"{view.family.layers}.{layer}.{path}"] = inner.arguments()
    return found


def auto_map(config: Any, stock: type) -> dict[str, str]:
    """Return the pruned class that each auto class of transformers loads a model of this family with."""
    names = {"AutoModel", *(kind.auto_class for kind in OBJECTIVES.values())}
    classes = {}
    for name in sorted(names):
        family = getattr(transformers, name)._model_mapping.get(type(config), None)
        if family is not None:
            classes[name] = f"{modeling_kprune.__name__.rsplit('.', 1)[-1]}.{PREFIX}{family.__name__}"
    return classes
