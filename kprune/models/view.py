"""A model as its first block's input, a list of blocks, and what comes after the last."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from kprune.errors import UserError
from kprune.models.blocks import Block, blocks_of, has_module
from kprune.models.families import family_of
from kprune.models.family import Family, Site
from kprune.models.inputs import call
from kprune.models.offload import lent, weights_of
from kprune.types import Model

NOT_CONTEXT = ("past_key_values", "past_key_value", "layer_past", "use_cache", "cache_position", "labels")
"""Arguments of a layer that belong to generation: a block that is run alone must not fill a cache."""


class Context(Mapping[int, dict[str, Any]]):
    """The keyword arguments that each layer is called with, apart from its input: masks, positions, rotary embeddings."""

    def __init__(self, by_layer: Sequence[dict[str, Any]], rows: int, tokens: int):
        self._by_layer, self._rows, self._tokens = by_layer, rows, tokens

    def __getitem__(self, layer: int) -> dict[str, Any]:
        return self._by_layer[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._by_layer)))

    def __len__(self) -> int:
        return len(self._by_layer)

    def rows(self, which: slice | Tensor) -> "Context":
        """Return the context of some of the batch's rows, given by their numbers or as a slice."""
        seen: dict[int, Any] = {}

        def cut(value: Any) -> Any:
            if id(value) not in seen:
                seen[id(value)] = self._cut(value, which, cut)
            return seen[id(value)]

        by_layer = [{name: cut(value) for name, value in settings.items()} for settings in self._by_layer]
        rows = len(range(self._rows)[which]) if isinstance(which, slice) else len(which)
        return Context(by_layer, rows, self._tokens)

    def _cut(self, value: Any, which: slice | Tensor, cut: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(cut, value))
        # Only a tensor that has one row for each row of the batch is cut. DeBERTa's table of positions, [positions, d] with
        # fractions, may happen to have as many rows; masks and positions, [B, T], are whole numbers.
        if not isinstance(value, Tensor) or value.dim() < 2 or not len(value) == self._rows > 1:
            return value
        table = value.dim() == 2 and (value.is_floating_point() or value.shape[1] != self._tokens)
        return value if table else value[which]


class Recorder(nn.Module):
    """Stand in for a layer: record its arguments, and return its input, or `result` if that is given."""

    def __init__(self, layer: nn.Module, pair: bool, result: Tensor | None = None):
        super().__init__()
        self.pair = pair
        # Not registered as a submodule, so that hooks and parameter counts do not find it.
        object.__setattr__(self, "layer", layer)
        object.__setattr__(self, "result", result)
        self.seen: dict[str, Any] = {}
        self.hidden: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.layer, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(self.layer.forward).bind(*args, **kwargs)
        arguments = {**bound.arguments}
        for parameter in bound.signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name, {})
        self.hidden = arguments.pop(next(iter(bound.signature.parameters)))
        self.seen = {name: value for name, value in arguments.items() if name not in NOT_CONTEXT}
        result = self.hidden if self.result is None else self.result
        return (result, None) if self.pair else result


class ModelView:
    """A model seen as blocks, bottom to top.

    The blocks may compute on another device than the model's: the working device. Then a layer's weights are on it while
    `at_work` is open, and the weights before and behind the layers while `ends_at_work` is open.
    """

    def __init__(self, model: Model, family: Family, device: torch.device | None = None):
        self.model, self.family = model, family
        self._device = device
        config = model.config
        self.blocks = [
            block for index, layer in enumerate(self.layers) for block in blocks_of(layer, index, family, config)
        ]

    @property
    def layers(self) -> nn.ModuleList:
        """Return the model's layers, bottom to top."""
        return cast(nn.ModuleList, self.model.base_model.get_submodule(self.family.layers))

    @property
    def sites(self) -> list[Site]:
        """Return the kinds of sublayers that the model has, in the order of the family."""
        present = {id(block.site) for block in self.blocks}
        return [site for site in self.family.sites if id(site) in present]

    @property
    def device(self) -> torch.device:
        """Return the working device, on which the blocks compute."""
        return self._device or self.model.device

    def at_work(self, layer: int) -> AbstractContextManager[None]:
        """Put a layer's weights on the working device while the context is open; they must not be changed."""
        return lent(weights_of(self.layers[layer]), self.device)

    def ends_at_work(self) -> AbstractContextManager[None]:
        """Put the weights before and behind the layers on the working device while the context is open; they must not be changed."""
        return lent(self.ends(), self.device)

    def ends(self) -> list[Tensor]:
        """Return the weights that belong to no layer: embeddings, last norm, head."""
        with self._layers_replaced([]):
            return weights_of(self.model)

    def named(self, name: str) -> Block:
        """Return the block with this name."""
        return next(block for block in self.blocks if block.name == name)

    def by_layer(self) -> list[list[Block]]:
        """Return a list of blocks for each layer; layers and blocks from bottom to top."""
        return [[block for block in self.blocks if block.layer == layer] for layer in range(len(self.layers))]

    def blocks_at_work(self) -> Iterator[Block]:
        """Yield the blocks, bottom to top, each with its layer `at_work` until the next one is asked for."""
        for block in self.blocks:
            with self.at_work(block.layer):
                yield block

    def of_kind(self, kind: str) -> list[Block]:
        """Return the blocks whose units are heads, or neurons, bottom to top."""
        return [block for block in self.blocks if block.kind == kind]

    def embed(self, batch: dict[str, Tensor]) -> tuple[Tensor, Context]:
        """Return the first block's input for a batch, [B, T, d], and all keyword arguments that the layers are called with."""
        with self._layers_replaced([Recorder(layer, self.family.returns_pair) for layer in self.layers]) as recorders:
            call(self.model, batch)
        hidden = recorders[0].hidden
        assert hidden is not None, "the model's forward calls its first layer"
        by_layer = [recorder.seen for recorder in recorders]
        for name in filter(None, (site.per_head for site in self.family.sites)):
            # Kept once: it is the same for all examples and layers, and with a copy for each it is as large as all attention scores.
            one = by_layer[0][name][:1].clone()
            by_layer = [settings | {name: one} for settings in by_layer]
        return hidden, Context(by_layer, *hidden.shape[:2])

    def apply_head(self, x: Tensor, batch: dict[str, Tensor]) -> Any:
        """Return the model's output for the last block's output [B, T, d]: the model's own last norm and head are applied."""
        with self._layers_replaced([Recorder(layer, self.family.returns_pair, x) for layer in self.layers]):
            return call(self.model, batch)

    def run(self, start: int, x: Tensor, context: Context, batch: dict[str, Tensor]) -> Any:
        """Return the model's output for the input of block `start`."""
        for block in self.blocks[start:]:
            x = block.run(x, context)
        return self.apply_head(x, batch)

    @contextmanager
    def _layers_replaced(self, layers: list[Recorder]) -> Iterator[list[Recorder]]:
        # The model's own forward computes masks, embeddings and head; only the layers between them are replaced.
        owner, _, name = self.family.layers.rpartition(".")
        parent = self.model.base_model.get_submodule(owner)
        own = getattr(parent, name)
        setattr(parent, name, nn.ModuleList(layers))
        try:
            yield layers
        finally:
            setattr(parent, name, own)


def view_of(model: Model, device: torch.device | None = None) -> ModelView:
    """Return the view of a transformers model.

    Args:
        device: on which the blocks compute; None for the model's own.

    Raises:
        UserError: the family is not supported; the model is only a part of a model; or it is not as its family is described
            (`check_described`).
    """
    family = family_of(model)
    try:
        model.base_model.get_submodule(family.layers)
    except AttributeError as error:
        raise UserError(
            f"{type(model).__name__} is a part of a model of the family '{model.config.model_type}', which has its layers at "
            f"{family.layers}: give the whole model"
        ) from error
    view = ModelView(model, family, device)
    check_described(view)
    return view


def check_described(view: ModelView) -> None:
    """Check that a model is as its family is described.

    Raises:
        UserError: it has a module that its family's sites do not describe, or lacks a norm that they do; its config sets a value that
            transformers ignores (`Family.fixed`); or layers share weights.
    """
    family, config = view.family, view.model.config
    for path in family.strangers:
        if has_module(view.model.base_model, path):
            raise UserError(
                f"the model has a module {path}, which pruning does not know: use another {config.model_type} model"
            )
    for block in view.blocks:
        for norm in filter(None, (block.site.norm, block.site.output_norm)):
            if not has_module(block.module, norm):
                raise UserError(
                    f"layer {block.layer} of the model has no module {norm}, which pruning expects: use another {config.model_type} model"
                )
    for name, value in family.fixed.items():
        if getattr(config, name, value) != value:
            raise UserError(
                f"the model's config says {name}={getattr(config, name)}, which transformers ignores: it computes by {value}, "
                f"and not what was trained: give a model with {name}={value}"
            )
    weights = [p for _, p in view.layers.named_parameters(remove_duplicate=False)]
    groups = getattr(config, family.groups) if family.groups else config.num_hidden_layers
    if len({id(weight) for weight in weights}) < len(weights) or groups < config.num_hidden_layers:
        raise UserError(
            "layers of the model share weights, and each is pruned on its own: give every layer its own copy, as "
            "kprune.unshared(model) does"
        )
