"""Widths that are the same in every layer, and the stock config that has them."""

import copy
from collections.abc import Sequence
from typing import Any

from kprune.errors import UserError, one_line
from kprune.models.blocks import Block
from kprune.models.config import config_from
from kprune.models.family import Site, head_size
from kprune.models.view import ModelView


def check_alike(view: ModelView) -> None:
    """Check that a model's layers can be narrowed alike.

    Raises:
        UserError: the layers differ in width already.
    """
    widths = differing(view)
    if widths:
        raise UserError(
            f"the layers of the model differ in width already ({widths}), and uniform=True keeps them alike: give a model "
            "whose layers are alike, or leave uniform out"
        )


def differing(view: ModelView) -> str | None:
    """Return in words how the layers differ in width; None if they do not."""
    found = [(site.kind, [block.units for block in blocks_of(view, site)]) for site in view.sites]
    apart = [f"{min(units)} to {max(units)} {kind}" for kind, units in found if min(units) != max(units)]
    return ", ".join(apart) or None


def blocks_of(view: ModelView, site: Site) -> list[Block]:
    """Return the blocks of one kind of sublayer, bottom to top."""
    return [block for block in view.blocks if block.site is site]


def allowed_units(view: ModelView, site: Site) -> list[int]:
    """Return the numbers of units per layer that the stock config can have, rising; the present number is the last."""
    present = blocks_of(view, site)[0].units
    fewer: Sequence[int] = range(1, present)
    # Of neurons there are thousands, and configs check the number of heads alone.
    if site.kind == "heads" or not _says(view.model.config, site, 1, present):
        fewer = [units for units in fewer if _says(view.model.config, site, units, present)]
    return [*fewer, present]


def _says(config: Any, site: Site, units: int, present: int) -> bool:
    try:
        narrowed_config(config, site, units, present)
    except ValueError:
        return False
    return True


def narrowed_config(config: Any, site: Site, units: int, present: int) -> Any:
    """Return a copy of a config with `units` in place of `present` units of a sublayer, of the same width.

    Raises:
        ValueError: the config has no setting for fewer units, or refuses the number: a Llama's heads must divide its hidden size.
    """
    if not site.settings or not present:
        raise ValueError(f"it has no setting for fewer {site.kind} of the same size")
    changed = copy.deepcopy(config)
    if site.kind == "heads":
        changed.head_dim = head_size(config)
    for name in site.settings:
        # GPT-2's n_inner is None if it is four times the hidden size.
        setattr(changed, name, (getattr(config, name) or present) * units // present)
    try:
        config_from(type(config), changed.to_dict())  # which checks it
    except Exception as error:  # transformers and its dataclasses raise several types
        raise ValueError(one_line(error.__cause__ or error)) from error
    return changed
