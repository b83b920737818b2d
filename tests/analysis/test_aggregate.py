"""What goes into one row: cells that are alike, and an interval that belongs to the mean beside it."""

from pathlib import Path

import numpy as np
import pytest
from records import FIRST_VERSION

from analysis.aggregate import GROUP, aggregate, settings
from analysis.numbers import Numbers
from analysis.pairing import DIFFERENCE, references
from analysis.readme import marked
from analysis.records import load
from analysis.tables import TABLES, notes
from kprune.errors import UserError

RESULTS = Path(__file__).parents[2] / "results"
OF_CELLS = ("cells", "few_tokens", "gpu", "latency_budget", "studies")
RNG = np.random.default_rng(0)
RIGHT = {"values": RNG.random(200) < 0.9}
WRONG = {"values": RIGHT["values"] & (RNG.random(200) < 0.8)}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"checkpoint": {"source": "given", "sha256": "ef56"}}, ["two dense models", "ab12", "ef56"]),
        (
            {"evaluation": {"split": "validation", "examples": 9, "majority": 50.0, "sha256": "other"}},
            ["two evaluation sets", "cd34", "other"],
        ),
        ({"metric": "f1"}, ["two metrics", "accuracy (", "f1 ("]),
        ({"dense_score": 80.0}, ["two scores of one dense model", "80.00 (", "task.*"]),
        (
            {"method": "kprune", "seed": 1, "config": {"method_version": 2}},
            ["mrpc minilm kprune has", "two versions of the method", "1 (", "2 (", "kprune/0.8/1"],
        ),
    ],
)
def test_cells_that_are_not_alike_are_refused(write_cell, outputs, changes, words):
    write_cell()
    write_cell(task="stsb")
    write_cell(**{"method": "kwon", **changes})
    with pytest.raises(UserError) as refused:
        aggregate(load(outputs))
    message = str(refused.value)
    assert len(message.splitlines()) == 1 and all(word in message for word in words), message
    assert "mrpc minilm" in message and "stsb" not in message


def test_of_two_runs_with_the_same_key_none_hides_that_they_are_not_alike(write_cell, outputs):
    write_cell().parents[4].rename(outputs / "first")
    write_cell(checkpoint={"source": "given", "sha256": "ef56"})
    with pytest.raises(UserError, match="two dense models"):
        aggregate(load(outputs))


def test_tasks_models_methods_and_cells_that_do_not_say_may_differ(write_cell, outputs):
    write_cell()
    write_cell(task="stsb", checkpoint={"source": "given", "sha256": "ef56"})
    write_cell(model="bert_base", checkpoint={"source": "given", "sha256": "0123"})
    write_cell(method="kprune_plus", config={"method_version": 2})
    write_cell(method="kwon", evaluation={"split": "validation", "examples": 408})
    assert len(aggregate(load(outputs))) == 5


@pytest.mark.parametrize("other", [{"seed": 1}, {"task": "stsb"}])
def test_cells_of_two_budgets_are_told_apart_wherever_they_stand(write_cell, outputs, other):
    for method in ("kprune_plus", "kwon"):
        write_cell(method=method, config={"calibration": {"tokens": 100000}})
        write_cell(method=method, variant={"tokens": 20000}, config={"calibration": {"tokens": 20000}}, **other)
    rows = aggregate(load(outputs))
    assert sorted(rows["settings"]) == ["tokens=100000"] * 2 + ["tokens=20000"] * 2 and set(rows["seeds"]) == {1}


def test_two_schedules_of_a_retrained_method_are_no_two_seeds(write_cell, outputs):
    write_cell(method="ebert")
    write_cell(method="ebert", variant={"epochs": 5}, seed=1)
    write_cell(method="dynabert_w")
    write_cell(method="dynabert_w", variant={"max_examples": 10000}, task="sst2")
    rows = aggregate(load(outputs)).set_index(["method", "task"])["settings"]
    assert set(rows["ebert"]) == {"", "epochs=5"} and set(rows["dynabert_w"]) == {""}


def test_times_of_two_machines_have_no_mean(write_cell, outputs):
    latency = FIRST_VERSION["latency"]
    for seed, device in enumerate(("a CPU", "a GPU")):
        write_cell(seed=seed, device=device, pruning_seconds=10.0**seed, latency=latency)
        write_cell(seed=seed, device="a CPU", method="kwon", latency=latency | {"batch_size": 1 + seed})
    table = aggregate(load(outputs)).set_index("method")
    assert table["pruning_seconds"].isna().to_dict() == {"kprune": True, "kwon": False}
    for column in ("latency_dense_ms", "latency_pruned_ms", "latency_speedup"):
        assert table[column].isna().to_dict() == {"kprune": False, "kwon": True}


def test_seconds_are_compared_on_one_machine(write_cell, outputs):
    for method, device, seconds in (("kprune", "a CPU", 2.0), ("ebert", "a CPU", 6.0), ("cofi", "a GPU", 1.0)):
        write_cell(method=method, device=device, pruning_seconds=seconds)
    shown = TABLES["retrained"].make(aggregate(load(outputs))).set_index("Method")["Times K-prune"]
    assert shown.tolist() == ["1.0x", "3.0x", "–"]


def test_no_mean_over_tasks_is_of_two_versions(write_cell, outputs):
    for task, version in (("mrpc", 1), ("stsb", 2)):
        write_cell(task=task, method="kprune_plus", config={"method_version": version})
        write_cell(task=task)
    cells = load(outputs)
    table = aggregate(cells)
    means = TABLES["accuracy"].make(table).query("Task == 'mean of 2 tasks'")["Method"]
    assert means.tolist() == ["K-prune"] and TABLES["summary"].make(table)["Method"].tolist() == ["K-prune"]
    assert TABLES["loss"].make(table).set_index("Method")["Mean"].to_dict() == {"K-prune": "3.68", "K-prune+": "–"}
    assert TABLES["trade"].make(table)["Method"].tolist() == ["K-prune"]
    geometric = TABLES["speedup"].make(table.assign(score=table["dense_score"])).iloc[-1]
    assert geometric["K-prune"] == "2.50x" and geometric["K-prune+"] == "–"
    numbers = Numbers(cells, outputs)
    assert numbers.loss("kprune", "0.8", "100000") == "3.68" and numbers.loss("kprune_plus", "0.8", "100000") == "–"


def test_a_page_says_which_task_has_which_version(write_cell, outputs):
    for task, version in (("mrpc", 3), ("stsb", 3), ("sst2", 2)):
        write_cell(task=task, method="kprune_plus", config={"method_version": version})
        write_cell(task=task, method="ebert")
    told = "K-prune+ is version 2 on SST-2 and version 3 on MRPC, STS-B."
    assert marked("retrained", load(outputs)).endswith(f"\n\n{told}\n") and told in notes(load(outputs))


def test_a_row_has_an_interval_if_every_seed_of_its_mean_has_one(write_cell, outputs):
    for seed in (0, 1):
        write_cell(RIGHT, seed=seed)
        write_cell(WRONG, seed=seed, method="kwon")
        write_cell(WRONG if seed else None, seed=seed, method="kcm")
    cells = load(outputs)
    assert cells.set_index(["method", "seed"])["against_kprune"].notna().to_dict()["kcm", 1]
    rows = aggregate(cells).set_index("method")[DIFFERENCE]
    assert rows.loc["kwon"].notna().all() and rows.loc["kcm"].isna().all()
    shown = TABLES["accuracy"].make(aggregate(cells)).set_index("Method")["80 %"]
    assert "[" in shown["Kwon et al."] and "[" not in shown["KCM"]


@pytest.mark.parametrize("name", OF_CELLS)
def test_every_printed_interval_contains_its_rows_mean(name):
    """The mean difference of the scores that the row shows, all seeds of it, from those of the K-prune cells beside them."""
    cells = load(RESULTS / f"{name}.csv")
    theirs = [np.nan if place is None else cells["score"].iloc[place] for place in references(cells)]
    cells = cells.assign(settings=settings(cells), difference=cells["score"] - theirs)
    means = cells.groupby(GROUP)["difference"].agg(lambda values: values.mean(skipna=False))
    for row in aggregate(cells).dropna(subset="against_kprune_low").itertuples():
        mean = means[tuple(getattr(row, name) for name in GROUP)]
        assert row.against_kprune_low <= mean <= row.against_kprune_high, row


def test_the_committed_cells_have_intervals():
    assert aggregate(load(RESULTS / "cells.csv"))["against_kprune_low"].notna().sum() > 15
