"""Sub-networks of one shared set of weights: the first units of every block, and evenly spread layers."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kprune.models import Block, ModelView, view_of
from kprune.models.modeling_kprune import is_transposed, sizes
from kprune.models.surgery import keep_layers, keep_units, unit_rows


@dataclass(frozen=True)
class Shape:
    """Multipliers of width (share of the heads and neurons of each layer kept) and depth (share of the layers)."""

    width: float
    depth: float

    def layers(self, count: int) -> list[int]:
        """Return which of `count` layers stay: ⌊i / depth⌋, as in the authors' code."""
        return [math.floor(i / self.depth + 1e-9) for i in range(max(1, round(self.depth * count)))]

    def units(self, count: int) -> int:
        """Return how many of a block's units stay; one at least if there is one."""
        return min(count, max(1, round(self.width * count)))

    def kept(self, view: ModelView) -> list[int]:
        """Return the units of every block of the whole model, 0 in a dropped layer."""
        layers = set(self.layers(len(view.layers)))
        return [self.units(s.units) if s.layer in layers else 0 for s in view.blocks]

    def flops(self, view: ModelView, sequence_length: float) -> float:
        """Return the FLOPs on one sequence, by the library's count."""
        units = self.kept(view)
        return sum(n * s.unit_flops(sequence_length) for n, s in zip(units, view.blocks, strict=True))


def extract(shared: nn.Module, shape: Shape) -> nn.Module:
    """Return the sub-network as a smaller model of its own, weights copied."""
    model = copy.deepcopy(shared)
    view = view_of(model)
    for block in view.blocks:
        keep_units(block, torch.arange(shape.units(block.units)))
    keep_layers(view, shape.layers(len(view.layers)))
    return model


class Subnetwork:
    """A sub-network that is called like a model, and runs on parts of the shared weights, to which gradients flow back."""

    def __init__(self, shared: nn.Module, shape: Shape):
        self.shared = shared
        self.skeleton = extract(shared, shape).to("meta")
        # A copy of the modules around the same tensors: its names are the skeleton's once the layers are dropped.
        tensors = [*shared.parameters(), *shared.buffers()]
        whole = copy.deepcopy(shared, {id(tensor): tensor for tensor in tensors})
        view = view_of(whole)
        keep_layers(view, shape.layers(len(view.layers)))
        self.tensors = dict(whole.named_parameters()) | dict(whole.named_buffers())
        narrow = dict(self.skeleton.named_parameters()) | dict(self.skeleton.named_buffers())
        self.kept = {name: tuple(slice(size) for size in narrow[name].shape) for name in self.tensors}
        names = {tensor: name for name, tensor in self.tensors.items()}
        for block in view_of(whole).blocks:
            for tensor, kept in fused_parts(block, shape.units(block.units)):
                self.kept[names[tensor]] = kept

    def __call__(self, **inputs):
        self.skeleton.train(self.shared.training)
        weights = {name: tensor[self.kept[name]] for name, tensor in self.tensors.items()}
        return functional_call(self.skeleton, weights, (), inputs)


def fused_parts(block: Block, count: int) -> Iterator[tuple[Tensor, tuple]]:
    """Yield the weight and bias of each input module that is fused of several, and the indices of a block's first units.

    The first units own the first rows of each part of such a module, so their rows are not one slice.
    """
    for rows, module in zip(block.site.inputs, block.inputs, strict=True):
        if rows.parts > 1 and block.units:
            weight = module.weight
            kept = unit_rows(torch.arange(count, device=weight.device), block.units, sizes(module)[1], rows.parts)
            yield weight, (slice(None), kept) if is_transposed(module) else (kept,)
            if module.bias is not None:
                yield module.bias, (kept,)
