"""What goes into one row: cells that are alike, and an interval that belongs to the mean beside it."""

from pathlib import Path

import numpy as np
import pytest

from analysis.aggregate import GROUP, aggregate, settings
from analysis.pairing import DIFFERENCE, references
from analysis.records import load
from analysis.tables import TABLES
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
