"""A stock model of fewer heads and neurons, as many in every layer: it loads everywhere without code, and is small and fast."""

from typing import Any

import torch

from kprune.checkpoint.classes import UNIFORM, stock_class, stock_config
from kprune.errors import UserError
from kprune.models import ModelView, view_of
from kprune.models.modeling_kprune import FORMAT
from kprune.models.uniform import blocks_of, differing, narrowed_config
from kprune.types import Model


def narrow_stock(model: Model) -> Model:
    """Return a model of the stock class with the weights of a pruned one whose layers are alike; the tensors are shared.

    Raises:
        UserError: no stock config can say its widths.
    """
    stock: Any = stock_class(model)
    config = uniform_config(view_of(model), stock)
    config.architectures = [stock.__name__]
    setattr(config, UNIFORM, FORMAT)
    narrow = stock_on_meta(stock, config)
    shapes = {name: tensor.shape for name, tensor in narrow.state_dict().items()}
    state = model.state_dict()
    if shapes != {name: tensor.shape for name, tensor in state.items()}:
        raise UserError(
            f"a {stock.__name__} of these widths has other weights than the pruned model: save with format='pruned'"
        )
    narrow.load_state_dict(state, assign=True)
    narrow.tie_weights()
    if model.can_generate():
        narrow.generation_config = model.generation_config
    return narrow.train(model.training)


def uniform_config(view: ModelView, stock: Any) -> Any:
    """Return the stock config that says the widths of a pruned model.

    Raises:
        UserError: there is none.
    """
    apart = differing(view)
    if apart:
        raise UserError(
            f"the layers differ in width ({apart}), and a stock config has one width for all: ask for it before pruning "
            "(uniform=True), or save with format='pruned'"
        )
    config = stock_config(view.model.config)
    full = view_of(stock_on_meta(stock, config))
    for site in view.sites:
        units, present = (blocks_of(which, site)[0].units for which in (view, full))
        moved = any(block.heads not in (None, list(range(present))) for block in blocks_of(view, site))
        if units == present and not moved:
            continue
        try:
            if not units:
                raise ValueError("it has no layers without")
            config = narrowed_config(config, site, units, present)
        except ValueError as error:
            raise UserError(
                f"a {type(config).__name__} can't say that each layer has {units} of {present} {site.kind} ({error}): ask for a "
                "uniform model before pruning (uniform=True), or save with format='pruned'"
            ) from error
    return config


def stock_on_meta(stock: Any, config: Any) -> Model:
    """Return a stock model on the meta device, whose weights take no memory."""
    with torch.device("meta"):
        return stock(config)
