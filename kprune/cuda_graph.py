"""Replay a function's kernels on a GPU as a CUDA graph: to launch a small kernel from Python takes longer than to run it."""

from collections.abc import Callable
from typing import Any

import torch


class Captured:
    """Call a function that reads and writes the same tensors in every call; on a GPU, as a CUDA graph from the second call on.

    The first call runs the function, which sets up what kernels need. The second call captures it. A function that can't be
    captured, since it waits for the GPU or moves something to it, is run in every call, as on a CPU; if it has an error of its
    own, this run raises it.

    Args:
        pool: memory of the graph's intermediate results, shared with other graphs that read none of them.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Any = None):
        self.function, self.device, self.pool = function, device, pool
        self.graph: torch.cuda.CUDAGraph | None = None
        self.can_capture = device.type == "cuda"
        self._called = False

    def __call__(self) -> None:
        """Do what the function does."""
        if self.can_capture and self._called and self.graph is None:
            self._capture()
        self._called = True
        if self.graph is None:
            self.function()
        else:
            self.graph.replay()

    def _capture(self) -> None:
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
            self.can_capture = False
        else:
            self.graph = graph
        now.wait_stream(stream)
