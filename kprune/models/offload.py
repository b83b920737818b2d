"""Weights that are on another device only while they are used."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kprune.errors import UserError
from kprune.precision import computes_in_float64


def place_for_layers(name: str | None, home: torch.device) -> torch.device:
    """Return the device that layers are to work on, with its index: the model's own if none is named.

    Args:
        home: where the model is.

    Raises:
        UserError: the device is unknown, not there, without float64, or the one that the model is on.
    """
    if name is None:
        return home
    if not computes_in_float64(name):
        raise UserError(f"layers_on={name} is not to be had here, or has no float64: leave it out")
    there = torch.empty(1, device=name).device
    if there == home:
        raise UserError(f"layers_on={name} is where the model is: leave it out, or keep the model on the CPU")
    return there


@contextmanager
def lent(tensors: Iterable[Tensor], device: torch.device) -> Iterator[None]:
    """Put tensors on a device while the context is open, where they must not be changed; then give them their old memory again."""
    homes = [(tensor, tensor.data) for tensor in tensors]
    try:
        for tensor, home in homes:
            tensor.data = home.to(device)
        yield
    finally:
        for tensor, home in homes:
            tensor.data = home


@contextmanager
def moved(module: nn.Module, device: torch.device, home: torch.device) -> Iterator[None]:
    """Put a module on a device while the context is open, then move it to `home`, with the changes made in between."""
    try:
        module.to(device)
        yield
    finally:
        module.to(home)


def give_own_memory(tensors: Iterable[Tensor]) -> None:
    """Copy the memory of tensors that share it with others, in place."""
    for tensor in tensors:
        tensor.data = tensor.data.clone()


def weights_of(module: nn.Module) -> list[Tensor]:
    """Return a module's parameters and buffers, each once."""
    return [*module.parameters(), *module.buffers()]
