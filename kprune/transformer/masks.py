"""Masks over heads and neurons as hooks on the output projections. They change what a model computes, not its cost."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from kprune.transformer.adapter import Adapter


@contextmanager
def masked(adapter: Adapter, masks: Sequence[Tensor]) -> Iterator[None]:
    """Within, every unit's features are multiplied by its mask ([units] per sublayer, bottom to top)."""
    handles = []
    try:
        for sublayer, mask in zip(adapter.sublayers, masks, strict=True):
            if sublayer.units:
                columns = mask.repeat_interleave(sublayer.unit_size)
                hook = lambda module, inputs, columns=columns: (inputs[0] * columns,)  # noqa: E731
                handles.append(sublayer.projection.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()
