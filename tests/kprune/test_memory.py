"""Memory that is handed back to the system."""

import resource

import pytest
import torch
from tiny import tiny_calibration, tiny_model

from kprune import memory
from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.methods.kprune_plus import KPrunePlus, first_pass
from kprune.models import view_of
from kprune.objectives import objective_of


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
    memory.release_freed_memory()
    assert held - resident() > 0.5 * 20_000 * 10_000


def test_nothing_happens_where_the_library_can_not(monkeypatch):
    monkeypatch.setattr(memory, "_trim", lambda: None)
    memory.release_freed_memory()


def test_what_a_block_freed_goes_back_before_the_next(monkeypatch):
    given_back = []
    monkeypatch.setattr(first_pass, "release_freed_memory", lambda: given_back.append(None))
    model = tiny_model(dtype=torch.float32)
    KPrunePlus(refit_epochs=0).prune(
        Job(model, objective_of(model), PruningData(tiny_calibration()), FlopsBudget(0.5, 8.0))
    )
    assert len(given_back) >= 2 * len(view_of(model).blocks)  # up the teacher, and up the student
