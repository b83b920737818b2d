"""Several processes that share the work: what comes out is what comes out of one."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from families import tiny_of
from language import tiny_llama
from tiny import tiny_calibration, tiny_model

from kprune import processes
from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.errors import UserError
from kprune.methods.kprune_plus import algorithm as plus
from kprune.methods.registry import build
from kprune.objectives import objective_of
from kprune.speedup import prune_to_speedup

CASES = {
    "bert": (lambda: tiny_model("bert"), "kprune_plus", {"refit_epochs": 3}),
    "span, fast": (lambda: tiny_model("distilbert", "span"), "kprune_plus_fast", {}),
    "llama": (lambda: tiny_llama(vocab_size=99).double(), "kprune_plus", {"refit_epochs": 2}),
    "gpt_neox": (lambda: tiny_of("gpt_neox"), "kprune_plus", {"refit_epochs": 2}),
    "llama, disk": (lambda: tiny_llama(vocab_size=99).double(), "kprune_plus", {"refit_epochs": 2, "states": "disk"}),
}
LONE = 20
"""Tokens of a step: some hold one example alone, so that a process has none of it."""


def outcomes():
    """Return, by case, the kept units and all weights."""
    plus.TOKENS = LONE
    found = {}
    for name, (make, method, settings) in CASES.items():
        model, data = make(), PruningData(tiny_calibration(24))
        outcome = build(method, settings).prune(Job(model, objective_of(model), data, FlopsBudget(0.6, 8.0)))
        found[name] = dict(outcome.plan.kept), list(outcome.model.state_dict().values())
    return found


def share(rank, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    with processes.together():
        torch.save(outcomes(), folder / f"{rank}.pt")
        data = PruningData(tiny_calibration(1))
        try:
            model = tiny_model()
            build("kprune_plus_fast", {}).prune(Job(model, objective_of(model), data, FlopsBudget(0.6, 8.0)))
        except UserError as error:
            (folder / f"{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


def test_two_processes_prune_as_one(tmp_path, monkeypatch):
    torch.multiprocessing.spawn(share, (tmp_path / "store", tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    monkeypatch.setattr(plus, "TOKENS", LONE)
    steps = tiny_calibration(24).steps(LONE)
    assert any(len(batch["input_ids"]) == 1 for batch in steps) and any(len(batch["input_ids"]) > 1 for batch in steps)
    for name, (kept, weights) in outcomes().items():
        assert first[name][0] == second[name][0] == kept, name
        for one, a, b in zip(weights, first[name][1], second[name][1], strict=True):
            assert torch.equal(a, b), name
            torch.testing.assert_close(a, one, rtol=1e-6, atol=1e-6)
    for rank in range(2):
        assert (tmp_path / f"{rank}.txt").read_text() == "there are 1 examples for 2 processes: start fewer"


def test_examples_are_dealt_out_one_by_one(monkeypatch):
    """Every one once, and of batches of one in turn."""
    monkeypatch.setattr(processes, "count", lambda: 3)
    sizes, found = (4, 1, 1, 5, 2), {}
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        before = 0
        for size in sizes:
            batch = {"input_ids": torch.arange(before, before + size)}
            found.setdefault(rank, []).extend(processes.own_rows(batch, before)["input_ids"].tolist())
            before += size
    assert found == {rank: list(range(rank, 13, 3)) for rank in range(3)}


def test_choices_stay_with_their_example(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    batch = {
        "input_ids": torch.arange(9)[:, None],
        "choices": torch.tensor([2, 4, 3]),
        "labels": torch.tensor([1, 3, 0]),
    }
    found = []
    for rank in range(2):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        own = processes.own_rows(batch, 1)  # an example went before
        found.append([own[name].flatten().tolist() for name in ("input_ids", "choices", "labels")])
    assert found == [[[2, 3, 4, 5], [4], [3]], [[0, 1, 6, 7, 8], [2, 3], [1, 0]]]


@pytest.mark.parametrize("name", ["kprune", "kwon", "magnitude"])
def test_methods_that_need_one_process_say_so(name, monkeypatch):
    model = tiny_model()
    build(name, {}).check(model, FlopsBudget(0.3, 8.0))
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(
        UserError, match=f"method {name} runs in one process, these are 2: start one, or use kprune_plus"
    ):
        build(name, {}).check(model, FlopsBudget(0.3, 8.0))
    build("kprune_plus_fast", {}).check(model, FlopsBudget(0.3, 8.0))


def test_a_measured_speedup_needs_one_process(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    model = tiny_model()
    with pytest.raises(UserError, match="a measured speed-up runs in one process"):
        data = PruningData(tiny_calibration())
        prune_to_speedup(build("kprune_plus", {}), model, objective_of(model), data, 2.0, 8.0)


def test_a_group_that_is_not_asked_to_help_is_left_alone():
    """A process of somebody's own training prunes by itself."""
    assert processes.count() == 1 and processes.rank() == 0
    assert processes.total(2.5) == 2.5 and processes.broadcast_flag(True)
