"""A block: one sublayer of one layer, taken apart into units."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from kprune.errors import UserError
from kprune.models.family import Family, Kind, Rows, Site, head_size
from kprune.models.modeling_kprune import heads_read, sizes
from kprune.types import Linear


class Reached(Exception):
    """Carry the features out of a core that goes on after them, such as ALBERT's, which adds the residual stream and applies a norm."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.features = features


class Exit(nn.Module):
    """Stand in for an output projection: raise `Reached`."""

    def forward(self, features: Tensor) -> Tensor:
        raise Reached(features)


class Block:
    """One attention or feed-forward network with its norm and residual connection.

    With x the residual stream: features f = core(norm_before(x)), update u = W_out f, output norm_after(moved(x, u)), where
    moved(x, u) is x + u in most families. One of `norm_before` and `norm_after` applies the norm, by `placement`; the other changes
    nothing. All properties read the live modules, so they follow surgery.

    In a layer whose two sublayers both read the layer's input (`Family.parallel`), what the first returns and the second takes has a
    hidden dimension of 2d: the residual stream, and behind it the layer's input.

    Attributes:
        site: what the family says of this kind of block.
        layer: index of the layer, from 0 at the bottom.
        placement: whether the norm comes "before" the sublayer or "after" its residual sum.
        parallel: which of the two sublayers of a parallel layer this is; None in any other layer.
        scale: factor of the update, after `output_norm` if there is one, in the sum with the stream; 1 in most families.
        width: columns of the output projection that one unit owns.
    """

    def __init__(self, module: nn.Module, layer: int, site: Site, family: Family, config: Any):
        self.module, self.layer, self.site = module, layer, site
        self.placement, self.scale = family.placement(config), family.scale(config)
        self.parallel: Literal["first", "second"] | None = None
        if family.is_parallel(config):
            self.parallel = "first" if site is family.sites[0] else "second"
        self.width = site.width(config)
        self._hidden_size, self._head_size = config.hidden_size, head_size(config)

    @property
    def name(self) -> str:
        """Return the block's name in plans and messages, such as "3.attention"."""
        return f"{self.layer}.{self.site.name}"

    @property
    def kind(self) -> Kind:
        """Return what the units are: "heads" or "neurons"."""
        return self.site.kind

    @property
    def inputs(self) -> list[Linear]:
        """Return the linear modules whose rows belong to the units: query, key and value, or the first of an FFN."""
        return [cast(Linear, self.module.get_submodule(rows.path)) for rows in self.site.inputs]

    @property
    def output(self) -> Linear:
        """Return the output projection (W_out in the paper), or its stand-in if no unit is left."""
        return cast(Linear, self.module.get_submodule(self.site.output))

    @property
    def linears(self) -> list[Linear]:
        """Return all linear modules of the block, inputs first; none if no unit is left."""
        return [*self.inputs, self.output] if self.units else []

    @property
    def norm(self) -> nn.Module | None:
        """Return the norm that `norm_before` or `norm_after` applies, whichever `placement` says; None if the family has none there."""
        return self.module.get_submodule(self.site.norm) if self.site.norm else None

    @property
    def output_norm(self) -> nn.Module | None:
        """Return the norm that is applied to the update before the residual sum; None if there is none, or an identity."""
        norm = self.module.get_submodule(self.site.output_norm) if self.site.output_norm else None
        return None if isinstance(norm, nn.Identity) else norm

    @property
    def adds_update(self) -> bool:
        """Tell whether `moved` returns the block's input plus the update, neither normed nor multiplied, in a layer that isn't parallel."""
        return self.output_norm is None and self.scale == 1 and self.parallel is None

    @property
    def columns(self) -> int:
        """Return the number of columns of the output projection, all units together; 0 if no unit is left."""
        return sizes(self.output)[0] if hasattr(self.output, "weight") else 0

    @property
    def units(self) -> int:
        """Return the number of units present."""
        return self.columns // self.width

    @property
    def core(self) -> nn.Module:
        """Return the first module of `Site.core`; an attention has only this one."""
        return self.module.get_submodule(self.site.core[0])

    @property
    def heads(self) -> list[int] | None:
        """Return the indices, among the dense model's heads, of those that are left, by which the argument `Site.per_head` is read.

        None if no argument goes by heads, or no head has been removed or moved.
        """
        return heads_read(self.core) if self.site.per_head else None

    @property
    def hidden_size(self) -> int:
        """Return d, the width of the residual stream."""
        return sizes(self.output)[1] if self.columns else self._hidden_size

    @property
    def attends(self) -> bool:
        """Tell whether the block is an attention, whose scores are of all pairs of tokens."""
        return self.kind == "heads" and not self.site.recurrent

    @property
    def grouped(self) -> bool:
        """Tell whether a unit holds more than one query head."""
        return self.units > 0 and self.width > self._head_size

    def rows_per_unit(self, rows: Rows) -> int:
        """Return the number of rows of an input module that belong to one unit, all parts together."""
        return sizes(self.module.get_submodule(rows.path))[1] // self.units

    def bias(self) -> Tensor | None:
        """Return the bias of the output projection, if it has one."""
        return self.output.bias

    def norm_before(self, x: Tensor) -> Tensor:
        """Return what the input modules read, [B, T, d]: norm(x) if the norm comes before the sublayer, else x.

        In the second block of a parallel layer, x is the layer's input.
        """
        x = x[..., self.hidden_size :] if self.parallel == "second" else x
        return x if self.norm is None or self.placement == "after" else self.norm(x)

    def features(self, x: Tensor, context: Mapping[int, dict[str, Any]]) -> Tensor:
        """Return f(x), the input of the output projection: [B, T, units * width]."""
        hidden = self.norm_before(x)
        for path in self.site.core:
            core = self.module.get_submodule(path)
            # A convolution or recurrence hands arguments of other names on to a kernel, which does not know those of an attention.
            own = accepted(type(core), context[self.layer], any_name=self.attends) if self.kind == "heads" else {}
            try:
                with self._left_at_output(path):
                    hidden = core(hidden, **own)
            except Reached as reached:
                return reached.features
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden

    def update(self, x: Tensor, context: Mapping[int, dict[str, Any]]) -> Tensor:
        """Return Sub(x), the output projection's output: [B, T, d]; without units, a tensor that broadcasts to this shape."""
        return self.output(self.features(x, context) if self.units else x)

    def moved(self, x: Tensor, update: Tensor) -> Tensor:
        """Return the block's output before `norm_after`: the residual stream with the update added, [B, T, d].

        The first block of a parallel layer hands its input on, too: [B, T, 2d].
        """
        norm = self.output_norm
        added = update if norm is None else norm(update)
        total = self.stream(x) + (added if self.scale == 1 else added * self.scale)
        return torch.cat([total, x], dim=-1) if self.parallel == "first" else total

    def stream(self, x: Tensor) -> Tensor:
        """Return the residual stream, [B, T, d], of the block's input or of what `moved` returns."""
        return x if self.parallel is None else x[..., : self.hidden_size]

    def wanted_update(self, x: Tensor, moved: Tensor, update: Tensor) -> Tensor:
        """Return the update with which the student's stream x becomes the teacher's stream `moved`: [B, T, d].

        If updates are normed before they are added (`output_norm`), no update may do this: then return the teacher's update.

        Args:
            x: the student's input of the block.
            moved: what the teacher's `moved` returns, X_T + Sub_T(X_T) in most families.
            update: the teacher's update, Sub_T(X_T), of a shape that broadcasts to [B, T, d].
        """
        x, moved = self.stream(x), self.stream(moved)
        if self.output_norm is not None:
            return update.expand_as(x)
        return moved - x if self.scale == 1 else (moved - x) / self.scale

    def norm_after(self, total: Tensor) -> Tensor:
        """Return the block's output from `total`, the result of `moved`, in its shape: norm(total) if the norm comes last, else `total`."""
        return total if self.norm is None or self.placement == "before" else self.norm(total)

    def join(self, x: Tensor, update: Tensor) -> Tensor:
        """Return the block's output for its input x and its update, in the shape that `moved` returns."""
        return self.norm_after(self.moved(x, update))

    def run(self, x: Tensor, context: Mapping[int, dict[str, Any]]) -> Tensor:
        """Return the whole block's output without dropout: [B, T, d] to [B, T, d], but for 2d inside a parallel layer."""
        return self.join(x, self.update(x, context))

    def run_with_features(self, x: Tensor, context: Mapping[int, dict[str, Any]]) -> tuple[Tensor, Tensor | None]:
        """Return the output of `run`, and the features, [B, T, units * width], or None without units."""
        if not self.units:
            return self.run(x, context), None
        features = self.features(x, context)
        return self.join(x, self.output(features)), features

    def unit_flops(self, sequence_length: float) -> float:
        """Return the FLOPs of one unit on one sequence.

        A multiply and an add count as 2; softmax, norm and bias are left out (K-prune paper, as Kwon et al. 2022). A head
        with keys and values of its own costs 8 s d d_h + 4 s² d_h on s tokens: its projections, attention scores and their
        product with the values; a neuron costs 4 s d, or 6 s d in a gated network. A causal mask saves nothing: all s² scores
        are counted (kprune/models/flops.py). Of a convolution or recurrence, the projections alone are counted.
        """
        if not self.units:
            return 0.0
        products = 2 * sequence_length * (self._input_weights() + self.hidden_size * self.width)
        return products + (4 * sequence_length**2 * self.width if self.attends else 0)

    def unit_parameters(self) -> int:
        """Return the weights and biases that one unit owns; 0 if no unit is left."""
        if not self.units:
            return 0
        biases = sum(self.rows_per_unit(rows) for rows, module in self._owned() if module.bias is not None)
        return self._input_weights() + biases + self.hidden_size * self.width

    def _input_weights(self) -> int:
        return sum(self.rows_per_unit(rows) * sizes(module)[0] for rows, module in self._owned())

    def _owned(self) -> Iterator[tuple[Rows, Linear]]:
        return zip(self.site.inputs, self.inputs, strict=True)

    @contextmanager
    def _left_at_output(self, core: str) -> Iterator[None]:
        """Let a core that has the output projection inside it raise `Reached` there while the context is open."""
        if not self.site.output.startswith(f"{core}."):
            yield
            return
        output, called = self.output, cast(Any, self.module.get_submodule(core))
        chunk = getattr(called, "chunk_size_feed_forward", 0)
        self.module.set_submodule(self.site.output, Exit())
        if chunk:
            # The projection would be reached with the first chunk of the tokens.
            called.chunk_size_feed_forward = 0
        try:
            yield
        finally:
            self.module.set_submodule(self.site.output, output)
            if chunk:
                called.chunk_size_feed_forward = chunk


def blocks_of(layer: nn.Module, index: int, family: Family, config: Any) -> list[Block]:
    """Return the blocks of a layer, bottom to top.

    Raises:
        UserError: the layer has none of the sublayers that its family says are in some layers.
    """
    mixers = [site for site in family.sites if site.some_layers]
    present = [site for site in mixers if has_module(layer, site.output)]
    if mixers and not present:
        known = ", ".join(site.output for site in mixers)
        raise UserError(
            f"layer {index} of the model has none of {known}: pruning does not know this {config.model_type} model"
        )
    return [
        Block(layer, index, site, family, config) for site in family.sites if site in present or not site.some_layers
    ]


def has_module(parent: nn.Module, path: str) -> bool:
    """Tell whether there is a module at a path below another one."""
    try:
        parent.get_submodule(path)
    except AttributeError:
        return False
    return True


def accepted(kind: type[nn.Module], settings: dict[str, Any], any_name: bool) -> dict[str, Any]:
    """Return the entries of `settings` that the forward of a module class takes as arguments.

    Args:
        any_name: whether a forward that takes any name gets all entries, and not only those that its signature names.
    """
    names, takes_any = parameter_names(kind.forward)
    return settings if takes_any and any_name else {name: value for name, value in settings.items() if name in names}


@cache
def parameter_names(forward: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Return the names of the arguments of a module class's forward, and whether it takes any other name, too."""
    parameters = inspect.signature(forward).parameters
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return frozenset(parameters), any_name
