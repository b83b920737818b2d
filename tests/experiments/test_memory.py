"""A cell's own peak of memory."""

import pytest
import torch

from experiments.cell import memory
from experiments.cell.memory import PeakMemory

CPU = torch.device("cpu")


def test_what_was_there_before_is_not_counted():
    if PeakMemory(CPU).mb() is None:
        pytest.skip("this system does not reset a process's peak")
    peaks = []
    for size in (300_000_000, 1, 300_000_000):
        peak = PeakMemory(CPU)
        block = b"x" * size
        del block
        peaks.append(peak.mb())
    assert peaks[0] - peaks[1] > 200 and peaks[2] - peaks[1] > 200


def test_a_system_that_can_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "nowhere" / "clear_refs")
    assert PeakMemory(CPU).mb() is None
