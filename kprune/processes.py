"""Several processes that prune one model together, each on its share of the examples: `torchrun`, or one's own group."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from kprune.data import part_of
from kprune.errors import UserError

PATIENCE = timedelta(days=1)
"""How long processes wait for the first one, which alone does what comes before and after the pruning."""
_together: list[bool] = []


@contextmanager
def together() -> Iterator[None]:
    """Share the work within among the processes of torch's group, each of which must open this context.

    Every one prunes the same model on the same calibration set, and gets the whole outcome.
    """
    _together.append(True)
    try:
        yield
    finally:
        _together.pop()


@contextmanager
def started_by_torchrun() -> Iterator[None]:
    """Share the work within among the processes that `torchrun` has started."""
    dist.init_process_group("gloo", timeout=PATIENCE)
    if torch.cuda.is_available():
        torch.cuda.set_device(dist.get_node_local_rank() % torch.cuda.device_count())
    try:
        with together():
            yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """Return how many processes share the work."""
    return dist.get_world_size() if _together else 1


def rank() -> int:
    """Return this process's number; the first one, 0, alone shows and writes anything."""
    return dist.get_rank() if _together else 0


def check_alone(what: str, remedy: str) -> None:
    """Check that something that needs one process has one.

    Raises:
        UserError: there are several.
    """
    if count() > 1:
        raise UserError(f"{what} runs in one process, these are {count()}: {remedy}")


def own_rows(batch: dict[str, Tensor], before: int) -> dict[str, Tensor]:
    """Return this process's examples of a batch: examples are dealt out one by one, over all batches.

    Args:
        before: number of examples in the batches before this one.
    """
    first = (rank() - before) % count()
    return part_of(batch, slice(first, None, count()))


def add_up(tensors: Iterable[Tensor]) -> None:
    """Set tensors to their sums over all processes, in place."""
    if count() > 1:
        for tensor in tensors:
            _exchange(tensor, dist.all_reduce)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Set tensors to the first process's, in place: what is computed from the same sums may differ by rounding."""
    if count() > 1:
        for tensor in tensors:
            _exchange(tensor, lambda whole: dist.broadcast(whole, 0))


def total(value: float) -> float:
    """Return the sum of a number over all processes."""
    numbers = torch.tensor([value], dtype=torch.float64)
    add_up([numbers])
    return numbers.item()


def broadcast_flag(value: bool) -> bool:
    """Return the first process's value; the others wait for it."""
    answer = torch.tensor([int(value)])
    broadcast([answer])
    return bool(answer.item())


def gathered(tensor: Tensor) -> Tensor:
    """Return the values [n] of all processes in one tensor, on the device of `tensor`; their order means nothing."""
    if count() == 1:
        return tensor
    found: list[Tensor] = [tensor] * count()
    dist.all_gather_object(found, tensor.cpu())
    return torch.cat(found).to(tensor.device)


def _exchange(tensor: Tensor, exchange: Callable[[Tensor], object]) -> None:
    whole = tensor.contiguous()
    exchange(whole)
    if whole is not tensor:
        tensor.copy_(whole)
