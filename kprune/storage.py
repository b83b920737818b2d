"""Where tensors lie while nothing works on them: where they are worked on, in memory of the CPU, or on disk."""

import tempfile
import weakref
from collections import defaultdict
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from kprune.errors import UserError

Where = Literal["device", "cpu", "disk"]


class Storage(Protocol):
    """Keep tensors, and give them back. In between, a handle stands for a tensor, which only `read` understands."""

    def keep(self, tensor: Tensor) -> Any:
        """Return the handle of a tensor, whose room is free again once the handle is deleted.

        Raises:
            UserError: there is no room for it.
        """

    def read(self, kept: Any) -> Tensor:
        """Return the tensor of a handle, on the device where it is worked on."""


class Device:
    """Leave tensors where they are."""

    def keep(self, tensor: Tensor) -> Tensor:
        return tensor

    def read(self, kept: Tensor) -> Tensor:
        return kept


class Memory:
    """Hold tensors in memory of the CPU."""

    def __init__(self, device: torch.device):
        self._device = device

    def keep(self, tensor: Tensor) -> Tensor:
        return tensor.cpu()

    def read(self, kept: Tensor) -> Tensor:
        return kept.to(self._device)


class Extent:
    """A place in the file of a `Disk`, and what is there."""

    def __init__(self, offset: int, shape: torch.Size, dtype: torch.dtype):
        self.offset, self.shape, self.dtype = offset, shape, dtype


class Disk:
    """Hold tensors in one temporary file, in the folder for such files (the environment's TMPDIR).

    The file has no name: nothing is left of it, however the process ends.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it is open as long as this object lives)
        self._end = 0
        self._free: dict[int, list[int]] = defaultdict(list)

    def keep(self, tensor: Tensor) -> Extent:
        content = tensor.detach().cpu().contiguous()
        free = self._free[content.nbytes]
        offset = free.pop() if free else self._end
        self._end = max(self._end, offset + content.nbytes)
        try:
            self._file.seek(offset)
            self._file.write(as_bytes(content))
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"hidden states can't be written to {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a folder with room"
            ) from error
        extent = Extent(offset, content.shape, content.dtype)
        weakref.finalize(extent, free.append, offset).atexit = False
        return extent

    def read(self, kept: Extent) -> Tensor:
        tensor = torch.empty(kept.shape, dtype=kept.dtype, device="cpu")
        self._file.seek(kept.offset)
        self._file.readinto(as_bytes(tensor))
        return tensor.to(self._device)


def as_bytes(tensor: Tensor) -> Any:
    """Return the bytes of a contiguous tensor on the CPU, a view of them as a buffer."""
    return tensor.view(-1).view(torch.uint8).numpy()


STORAGES: dict[Where, Any] = {"device": lambda _: Device(), "cpu": Memory, "disk": Disk}


def storage_at(where: Where, device: torch.device) -> Storage:
    """Return a storage for tensors that are worked on on a device."""
    storage: Storage = STORAGES[where](device)
    return storage
