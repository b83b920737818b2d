"""Replay on a GPU what it was told before: telling it takes longer than it takes for most kernels of a small step."""

from collections.abc import Callable
from typing import Any

import torch


class Recorded:
    """A function that reads and writes the same tensors in every call, recorded on a GPU as a graph of its kernels.

    The first call runs it, which sets up what kernels need; the second one records it, and from then on it is replayed. A
    function that can't be recorded, since it waits for the GPU or moves something to it, is run in every call, as on a CPU.

    Args:
        pool: of memory for what the function makes on its way, shared with others that read nothing of it.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Any = None):
        self.function, self.device, self.pool = function, device, pool
        self.graph: torch.cuda.CUDAGraph | None = None
        self.records = device.type == "cuda"
        self._called = False

    def __call__(self) -> None:
        """Do what the function does."""
        if self.records and self._called and self.graph is None:
            self._record()
        self._called = True
        if self.graph is None:
            self.function()
        else:
            self.graph.replay()

    def _record(self) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.device)
        now = torch.cuda.current_stream(self.device)
        stream.wait_stream(now)
        try:
            with torch.cuda.stream(stream):
                graph.capture_begin(self.pool, capture_error_mode="thread_local")
                try:
                    self.function()
                finally:
                    graph.capture_end()
        except RuntimeError:
            self.records = False
        else:
            self.graph = graph
        now.wait_stream(stream)
