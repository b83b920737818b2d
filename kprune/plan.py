"""What of a model a method keeps, as data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kprune.models.family import Kind
from kprune.models.view import ModelView
from kprune.target import Target


@dataclass(frozen=True)
class Plan:
    """What of a model is kept.

    Attributes:
        kinds: what the units of each block are, by the block's name ("3.attention"), bottom to top.
        units: number of units kept of each block; a mean if it depends on the input.
        kept: indices of the kept units of each block, in the dense model's numbering; None if they depend on the input.
        layers_left_out: layers of the dense model that were removed whole, norms and residual connections included.
        sparsity: which share or pattern of the weights of every linear module of the layers is zero; None if no weight was set to zero.
    """

    kinds: Mapping[str, Kind]
    units: Mapping[str, float]
    kept: Mapping[str, Sequence[int]] | None
    layers_left_out: tuple[int, ...] = field(default=())
    sparsity: Target | None = None

    @classmethod
    def of(cls, view: ModelView, kept: Iterable[Sequence[int]], layers_left_out: Iterable[int] = ()) -> "Plan":
        """Return the plan that keeps these units of the dense model's blocks, bottom to top."""
        units = {block.name: list(which) for block, which in zip(view.blocks, kept, strict=True)}
        counts = {name: len(which) for name, which in units.items()}
        return cls({block.name: block.kind for block in view.blocks}, counts, units, tuple(layers_left_out))

    @classmethod
    def of_means(cls, view: ModelView, units: Iterable[float]) -> "Plan":
        """Return the plan of a method that keeps different units for each input, from their mean numbers, bottom to top."""
        names = [block.name for block in view.blocks]
        return cls({block.name: block.kind for block in view.blocks}, dict(zip(names, units, strict=True)), None)

    @classmethod
    def of_sparsity(cls, view: ModelView, sparsity: Target) -> "Plan":
        """Return the plan that keeps every unit, and sets weights of the layers' linear modules to zero."""
        return replace(cls.of(view, [range(block.units) for block in view.blocks]), sparsity=sparsity)

    def per_layer(self, kind: Kind) -> list[float]:
        """Return the number of heads, or of neurons, that each layer keeps, bottom to top."""
        return [count for name, count in self.units.items() if self.kinds[name] == kind]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values; `from_json` reads them."""
        return {
            "kinds": dict(self.kinds),
            "units": dict(self.units),
            "kept": None if self.kept is None else {name: list(units) for name, units in self.kept.items()},
            "layers_left_out": list(self.layers_left_out),
            "sparsity": None if self.sparsity is None else str(self.sparsity),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Plan":
        """Return the plan from what `to_json` returns; earlier versions wrote the sparsity as `masks`."""
        sparsity = values.get("sparsity", values.get("masks"))
        return cls(
            values["kinds"],
            values["units"],
            values["kept"],
            tuple(values["layers_left_out"]),
            None if sparsity is None else Target.parse(sparsity),
        )
