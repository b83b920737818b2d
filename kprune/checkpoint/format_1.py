"""Configs of pruned models that kprune 0.1 saved: `kept_heads` and `kept_neurons`, a number per layer."""

from typing import Any

from kprune.models.families import FAMILIES
from kprune.models.family import Site
from kprune.models.modeling_kprune import FORMAT

KEPT = {"heads": "kept_heads", "neurons": "kept_neurons"}


def convert(config: Any) -> None:
    """Give a config of format 1 the entry of format 2, in place; leave any other as it is.

    Raises:
        ValueError: the config lists widths that no model of its family has.
    """
    if getattr(config, "kprune_format", None) != 1:
        return
    family = FAMILIES[config.model_type]
    modules: dict[str, list[int]] = {}
    emptied: dict[str, dict[str, Any]] = {}
    attributes: dict[str, int] = {}
    for site in family.sites:
        widths = getattr(config, KEPT[site.kind], None)
        if not isinstance(widths, list) or len(widths) != config.num_hidden_layers:
            raise ValueError(f"config.json has no list {KEPT[site.kind]} of {config.num_hidden_layers} numbers")
        for layer, units in enumerate(widths):
            if not isinstance(units, int) or units < 0:
                raise ValueError(f"config.json lists {units} in {KEPT[site.kind]}: no number of units")
            prefix, columns = f"{family.layers}.{layer}", units * site.width(config)
            if units:
                modules |= {f"{prefix}.{rows.path}": [config.hidden_size, columns] for rows in site.inputs}
                modules[f"{prefix}.{site.output}"] = [columns, config.hidden_size]
                amounts = {"units": units, "columns": columns}
                attributes |= {f"{prefix}.{path}": amounts[amount] for path, amount in site.attributes.items()}
            else:
                emptied |= {f"{prefix}.{path}": form for path, form in stand_ins(site, config.hidden_size).items()}
    config.kprune = {
        "format": FORMAT,
        "layers": family.layers,
        "modules": modules,
        "emptied": emptied,
        "attributes": attributes,
    }
    for name in ("kprune_format", *KEPT.values()):
        delattr(config, name)


def stand_ins(site: Site, hidden_size: int) -> dict[str, dict[str, Any]]:
    """Return the modules that stand in for those of a site without units, by path below the layer."""
    forms: dict[str, dict[str, Any]] = {}
    for path in site.core:
        inside = site.output.startswith(f"{path}.")
        form = {"output": site.output.removeprefix(f"{path}.") if inside else None, "pair": site.kind == "heads"}
        forms[path] = form | {"layer": None} | ({"bias": hidden_size} if inside else {})
    if not any(site.output.startswith(f"{path}.") for path in site.core):
        forms[site.output] = {"bias": hidden_size}
    return forms
