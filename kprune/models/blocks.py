"""A block: one sublayer of one layer, taken apart into units."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

from torch import Tensor, nn

from kprune.models.families import Family, Kind, Rows, Site, head_size
from kprune.models.modeling_kprune import heads_read, sizes
from kprune.types import Linear


class Reached(Exception):
    """Carry the features out of a core that computes more after them: ALBERT's adds the residual stream and takes the norm."""

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

    Attributes:
        site: what the family says of this kind of block.
        layer: index of the layer, from 0 at the bottom.
        placement: whether the norm comes "before" the sublayer or "after" its residual sum.
        scale: what the update is multiplied by before it is added to the stream.
        width: columns of the output projection that one unit owns.
    """

    def __init__(self, module: nn.Module, layer: int, site: Site, family: Family, config: Any):
        self.module, self.layer, self.site = module, layer, site
        self.placement, self.scale = family.placement(config), family.scale(config)
        self.width = site.width(config)
        self._hidden_size, self._head_size = config.hidden_size, head_size(config)

    @property
    def name(self) -> str:
        """Return the block's name in plans and messages, such as "3.attention"."""
        return f"{self.layer}.{self.site.name}"

    @property
    def kind(self) -> Kind:
        """Return what the units are."""
        return self.site.kind

    @property
    def inputs(self) -> list[Linear]:
        """Return the linear modules whose rows belong to the units: query, key and value, or the first of an FFN."""
        return [cast(Linear, self.module.get_submodule(rows.path)) for rows in self.site.inputs]

    @property
    def output(self) -> Linear:
        """Return the output projection (W_out in the paper), or what stands in for it if no unit is left."""
        return cast(Linear, self.module.get_submodule(self.site.output))

    @property
    def linears(self) -> list[Linear]:
        """Return all linear modules of the block, inputs first; none if no unit is left."""
        return [*self.inputs, self.output] if self.units else []

    @property
    def norm(self) -> nn.Module | None:
        """Return the norm, which `norm_before` or `norm_after` applies, by `placement`; None if there is none."""
        return self.module.get_submodule(self.site.norm) if self.site.norm else None

    @property
    def output_norm(self) -> nn.Module | None:
        """Return the norm of the update before it is added to the residual stream; None if there is none."""
        return self.module.get_submodule(self.site.output_norm) if self.site.output_norm else None

    @property
    def adds_update(self) -> bool:
        """Tell whether the update itself is added to the residual stream, not its norm or a multiple."""
        return self.output_norm is None and self.scale == 1

    @property
    def columns(self) -> int:
        """Return the number of inputs of the output projection, those of all units."""
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
        """Return which heads of the dense model the units are, for `Site.per_head`; None if they are all of them, in order."""
        return heads_read(self.core) if self.site.per_head else None

    @property
    def hidden_size(self) -> int:
        """Return d, the width of the residual stream."""
        return sizes(self.output)[1] if self.columns else self._hidden_size

    @property
    def grouped(self) -> bool:
        """Tell whether a unit holds several query heads."""
        return self.units > 0 and self.width > self._head_size

    def rows_per_unit(self, rows: Rows) -> int:
        """Return the rows of an input module that belong to one unit, all parts together."""
        return sizes(self.module.get_submodule(rows.path))[1] // self.units

    def bias(self) -> Tensor | None:
        """Return the bias of the output projection, if it has one."""
        return self.output.bias

    def norm_before(self, x: Tensor) -> Tensor:
        """Return the input of the input weights: norm(x) if the norm comes first, else x."""
        return x if self.norm is None or self.placement == "after" else self.norm(x)

    def features(self, x: Tensor, context: Mapping[int, dict[str, Any]]) -> Tensor:
        """Return f(x), the input of the output projection: [B, T, units * width]."""
        hidden = self.norm_before(x)
        for path in self.site.core:
            core = self.module.get_submodule(path)
            settings = accepted(type(core), context[self.layer]) if self.kind == "heads" else {}
            try:
                with self._left_at_output(path):
                    hidden = core(hidden, **settings)
            except Reached as reached:
                return reached.features
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden

    def update(self, x: Tensor, context: Mapping[int, dict[str, Any]]) -> Tensor:
        """Return Sub(x), the output projection's output: [B, T, d], or what broadcasts to it without units."""
        return self.output(self.features(x, context) if self.units else x)

    def moved(self, x: Tensor, update: Tensor) -> Tensor:
        """Return the residual stream x with the block's update added to it, before a norm that comes last: [B, T, d]."""
        norm = self.output_norm
        added = update if norm is None else norm(update)
        return x + (added if self.scale == 1 else added * self.scale)

    def wanted_update(self, x: Tensor, moved: Tensor, update: Tensor) -> Tensor:
        """Return the update that moves the stream x to where a teacher's update moved the teacher's, [B, T, d].

        If updates are normed before they are added, there may be none. Then the teacher's own update is returned.

        Args:
            x: of the student. moved: X_T + Sub_T(X_T) of the teacher. update: Sub_T(X_T).
        """
        if self.output_norm is not None:
            return update.expand_as(x)
        return moved - x if self.scale == 1 else (moved - x) / self.scale

    def norm_after(self, total: Tensor) -> Tensor:
        """Return the block's output for the stream that its update has been added to: its norm if the norm comes last, else itself."""
        return total if self.norm is None or self.placement == "before" else self.norm(total)

    def join(self, x: Tensor, update: Tensor) -> Tensor:
        """Return the block's output for its input x and its update: [B, T, d]."""
        return self.norm_after(self.moved(x, update))

    def run(self, x: Tensor, context: Mapping[int, dict[str, Any]]) -> Tensor:
        """Return the whole block's output without dropout: [B, T, d] to [B, T, d]."""
        return self.join(x, self.update(x, context))

    def run_with_features(self, x: Tensor, context: Mapping[int, dict[str, Any]]) -> tuple[Tensor, Tensor | None]:
        """Return what `run` does, and the features on the way, [B, T, units * width]; None without units."""
        if not self.units:
            return self.run(x, context), None
        features = self.features(x, context)
        return self.join(x, self.output(features)), features

    def unit_flops(self, sequence_length: float) -> float:
        """Return the FLOPs of one unit on one sequence.

        A multiply and an add count as 2; softmax, norm and bias are left out (K-prune paper, as Kwon et al. 2022). A head
        costs 8 s d d_h + 4 s² d_h: its projections, attention scores and their product with the values; a neuron 4 s d. A
        causal mask saves nothing: all s² scores are counted (kprune/models/flops.py).
        """
        if not self.units:
            return 0.0
        products = 2 * sequence_length * (self._input_weights() + self.hidden_size * self.width)
        return products + (4 * sequence_length**2 * self.width if self.kind == "heads" else 0)

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


def accepted(kind: type[nn.Module], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that a module of this class takes."""
    names = parameter_names(kind.forward)
    return settings if names is None else {name: value for name, value in settings.items() if name in names}


@cache
def parameter_names(forward: Callable[..., Any]) -> frozenset[str] | None:
    """Return the names of the arguments of a module class's forward; None if it takes any."""
    parameters = inspect.signature(forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return None
    return frozenset(parameters)
