"""What a GPU is told once and then replays, on a torch that acts as if there were one."""

from contextlib import nullcontext

import pytest
import torch

from kprune.recorded import Recorded

GPU = torch.device("cuda", 0)


class Stream:
    def __init__(self, device=None):
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other)


@pytest.fixture
def told(monkeypatch):
    """What the GPU is told: by name, what was done to a graph, in order."""
    told, now = [], Stream()

    class Graph:
        def capture_begin(self, pool, capture_error_mode):
            told.append(f"begin in {pool}")

        def capture_end(self):
            told.append("end")

        def replay(self):
            told.append("replay")

    for name, fake in {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "current_stream": lambda device: now,
        "stream": lambda stream: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return told


def test_the_first_call_runs_the_second_records_and_the_others_replay(told):
    recorded = Recorded(lambda: told.append("run"), GPU, "a pool")
    for _ in range(4):
        recorded()
    assert told == ["run", "begin in a pool", "run", "end", "replay", "replay", "replay"]


def test_what_can_not_be_recorded_runs_in_every_call(told):
    """A call that is refused while recording has done nothing, and is made once more."""

    def run():
        if told and told[-1].startswith("begin"):
            raise RuntimeError("operation not permitted when stream is capturing")
        told.append("run")

    recorded = Recorded(run, GPU)
    for _ in range(3):
        recorded()
    assert told == ["run", "begin in None", "end", "run", "run"]


def test_on_a_cpu_nothing_is_recorded(told):
    recorded = Recorded(lambda: told.append("run"), torch.device("cpu"))
    for _ in range(3):
        recorded()
    assert told == ["run"] * 3
