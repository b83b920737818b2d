"""Seconds by stage, and what cells share."""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from kprune.contract import PruningData


class Clock:
    """Wall-clock seconds by stage, added up."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[stage] += time.perf_counter() - start

    def shared(self, data: "PruningData", key: Hashable, compute: "Callable[[Clock], Any]") -> Any:
        """`compute(clock)`, done once for `data` and kept there under `key`; the stages that it tells its clock count in
        full every time.

        The value must not depend on the budget, and whoever takes it must not change it.
        """
        if key not in data.shared:
            own = Clock()
            data.shared[key] = compute(own), own.seconds
        value, seconds = data.shared[key]
        for stage, taken in seconds.items():
            self.seconds[stage] += taken
        return value
