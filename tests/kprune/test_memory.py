"""Memory that is handed back to the system."""

import resource

import pytest
import torch

from kprune import memory


def resident() -> int:
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * resource.getpagesize()


def test_freed_pieces_go_back_to_the_system():
    """Many small tensors, of which every tenth stays: the heap can't shrink from its end."""
    if memory._trim() is None:
        pytest.skip("the C library can't hand memory back")
    pieces = [torch.ones(2500) for _ in range(20_000)]
    held = resident()
    pieces = pieces[::10]
    memory.give_back()
    assert held - resident() > 0.5 * 20_000 * 10_000


def test_nothing_happens_where_the_library_can_not(monkeypatch):
    monkeypatch.setattr(memory, "_trim", lambda: None)
    memory.give_back()
