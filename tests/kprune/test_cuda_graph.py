"""CUDA graphs of a function, on a torch that acts as if there were a GPU."""

from contextlib import nullcontext

import pytest
import torch

from kprune.cuda_graph import Captured

GPU = torch.device("cuda", 0)


class Stream:
    def __init__(self, device=None):
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other)


@pytest.fixture
def calls(monkeypatch):
    """Return what was done to graphs, in order."""
    calls, now = [], Stream()

    class Graph:
        def capture_begin(self, pool, capture_error_mode):
            calls.append(f"begin in {pool}")

        def capture_end(self):
            calls.append("end")

        def replay(self):
            calls.append("replay")

    for name, fake in {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "current_stream": lambda device: now,
        "stream": lambda stream: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return calls


def test_the_first_call_runs_the_second_captures_and_the_others_replay(calls):
    captured = Captured(lambda: calls.append("run"), GPU, "a pool")
    for _ in range(4):
        captured()
    assert calls == ["run", "begin in a pool", "run", "end", "replay", "replay", "replay"]


def test_what_can_not_be_captured_runs_in_every_call(calls):
    """A call that is refused during the capture has done nothing, and is made once more."""

    def run():
        if calls and calls[-1].startswith("begin"):
            raise RuntimeError("operation not permitted when stream is capturing")
        calls.append("run")

    captured = Captured(run, GPU)
    for _ in range(3):
        captured()
    assert calls == ["run", "begin in None", "end", "run", "run"]


def test_on_a_cpu_nothing_is_captured(calls):
    captured = Captured(lambda: calls.append("run"), torch.device("cpu"))
    for _ in range(3):
        captured()
    assert calls == ["run"] * 3
