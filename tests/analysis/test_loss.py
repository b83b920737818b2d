"""Points lost, and how many of K-prune's that is."""

import re
from pathlib import Path

import numpy as np
import pytest

from analysis.aggregate import aggregate
from analysis.pairing import DIFFERENCE
from analysis.records import load
from analysis.tables import TABLES


def shown(outputs):
    return TABLES["loss"].make(aggregate(load(outputs)))


@pytest.fixture
def cells(write_cell):
    """Two tasks at 80 %: K-prune loses 4 and 8, its authors' code 8 and 16, K-prune+ 3 on both (the mean of two seeds on one)."""
    for task, ours in (("mrpc", 4.0), ("rte", 8.0)):
        write_cell(task=task, dense_score=80.0, score=80.0 - ours)
        write_cell(task=task, dense_score=80.0, method="kprune_official", score=80.0 - 2 * ours)
        write_cell(task=task, dense_score=80.0, method="kprune_plus", score=77.0 if task == "rte" else 76.0)
    write_cell(task="mrpc", dense_score=80.0, method="kprune_plus", score=78.0, seed=1)


def test_losses_are_means_over_seeds_and_ratios_of_means_over_tasks(cells, outputs):
    table = shown(outputs).set_index("Method")
    ratios = ["Of K-prune", "Of K-prune, authors' code"]
    assert list(table.columns) == ["FLOPs removed", "MRPC", "RTE", "Seeds", "Mean", *ratios]
    assert table.loc["K-prune+"].tolist() == ["80 %", "3.00", "3.00", "1 to 2", "3.00", "0.50", "0.25"]
    assert table.loc["K-prune"].tolist() == ["80 %", "4.00", "8.00", "1", "6.00", "1.00", "0.50"]


def test_the_better_of_two_lambdas_is_the_reference_if_it_is_there(cells, write_cell, outputs):
    for task in ("mrpc", "rte"):
        write_cell(task=task, dense_score=80.0, method="kprune_two_lambdas", score=77.0)
    table = shown(outputs).set_index("Method")["Of K-prune"]
    assert table["K-prune+"] == "1.00" and table["K-prune"] == "2.00"


def predicted(scores, dense):
    return {"values": scores, "dense": dense}


def test_the_interval_of_a_ratio_draws_examples_and_seeds(write_cell, outputs):
    """Against drawing one by one: the same examples and seeds for both methods, a task's apart from another's."""
    rng = np.random.default_rng(0)
    dense = {task: rng.random(200) < 0.9 for task in ("mrpc", "rte")}
    right: dict[str, dict] = {"kprune": {}, "kprune_plus": {}}
    for task, of_task in dense.items():
        for seed in range(3):
            for method, kept in (("kprune", 0.8), ("kprune_plus", 0.9)):
                scores = of_task & (rng.random(200) < kept + 0.03 * seed)
                right[method][task, seed] = scores
                changes = {
                    "dense_score": 100 * of_task.mean(),
                    "score": 100 * scores.mean(),
                    "task": task,
                    "seed": seed,
                }
                write_cell(predicted(scores, of_task), method=method, **changes)
    row = shown(outputs).set_index("Method").loc["K-prune+"]
    ratio, low, high = map(float, re.match(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", row["Of K-prune"]).groups())

    def loss(method, items, seeds):
        return np.mean(
            [[dense[t][items[t]].mean() - right[method][t, s][items[t]].mean() for s in seeds] for t in dense]
        )

    draws = []
    for _ in range(4000):
        items, seeds = {task: rng.integers(200, size=200) for task in dense}, rng.integers(3, size=3)
        draws.append(loss("kprune_plus", items, seeds) / loss("kprune", items, seeds))
    everything = {task: slice(None) for task in dense}
    assert ratio == pytest.approx(
        loss("kprune_plus", everything, range(3)) / loss("kprune", everything, range(3)), abs=0.01
    )
    assert [low, high] == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist(), abs=0.05) and low < ratio < high


def test_a_row_without_every_task_has_no_mean(cells, write_cell, outputs):
    write_cell(task="mrpc", dense_score=80.0, method="kprune_plus", score=79.0, variant={"floor": 0})
    row = shown(outputs).set_index("Method").loc["K-prune+ (floor=0)"]
    assert row.tolist() == ["80 %", "1.00", "–", "1", "–", "–", "–"]


def test_the_reference_is_the_largest_budget_that_has_every_task(write_cell, outputs):
    for tokens, losses in (
        (20000, {"mrpc": 4.0, "rte": 8.0}),
        (50000, {"mrpc": 2.0, "rte": 4.0}),
        (90000, {"mrpc": 1.0}),
    ):
        for task, lost in losses.items():
            config = {
                "method": {"lambdas": [0.1], "mu": 1.0, "knowledge": {"temperature": 2.0}},
                "calibration": {"tokens": tokens},
            }
            write_cell(task=task, dense_score=80.0, score=80.0 - lost, variant={"tokens": tokens}, config=config)
    table = shown(outputs).set_index("Method")["Of K-prune"]
    assert table["K-prune (50,000 tokens)"] == "1.00" and table["K-prune (20,000 tokens)"] == "2.00"
    assert table["K-prune (90,000 tokens)"] == "–"


def test_models_are_apart(write_cell, outputs):
    """Each has its own tasks and its own K-prune."""
    for model, tasks in (("bert_base", ("mrpc", "rte")), ("minilm", ("mrpc",))):
        for task in tasks:
            write_cell(model=model, task=task, dense_score=80.0, score=76.0)
            write_cell(
                model=model,
                task=task,
                dense_score=80.0,
                method="kprune_plus",
                score=78.0 if model == "minilm" else 79.0,
            )
    table = shown(outputs).set_index(["Model", "Method"])["Of K-prune"]
    assert table["BERT-base", "K-prune+"] == "0.25" and table["MiniLM-L6", "K-prune+"] == "0.50"


def test_where_kprune_lost_nothing_there_is_no_ratio(write_cell, outputs):
    write_cell(dense_score=80.0, score=80.0)
    write_cell(dense_score=80.0, method="kprune_plus", score=79.0)
    assert shown(outputs)["Of K-prune"].tolist() == ["–", "–"]


def test_other_methods_and_targets_stay_apart(cells, write_cell, outputs):
    write_cell(method="kwon", dense_score=80.0, score=60.0)
    write_cell(method="kprune_finetuned", dense_score=80.0, score=60.0)
    write_cell(method="kprune_plus", dense_score=80.0, score=80.0, flops_reduction_requested=0.6)
    table = shown(outputs)
    assert set(table["Method"]) == {"K-prune+", "K-prune", "K-prune, authors' code"}
    assert table["FLOPs removed"].tolist() == ["60 %", "80 %", "80 %", "80 %"]
    assert table.loc[0, ["MRPC", "RTE", "Mean"]].tolist() == ["0.00", "–", "–"]


def test_without_kprunes_family_it_is_empty(write_cell, outputs):
    write_cell(method="kwon", score=60.0)
    assert shown(outputs).empty


def test_a_task_near_the_majority_is_shown_but_in_no_mean(cells, write_cell, outputs):
    near = {"split": "validation", "examples": 277, "majority": 76.0, "sha256": "cd34"}
    for method, score in (("kprune", 70.0), ("kprune_plus", 80.0)):
        write_cell(task="cola", method=method, dense_score=80.0, score=score, evaluation=near)
    row = shown(outputs).set_index("Method").loc["K-prune+"]
    assert row["CoLA"] == "0.00" and row["Mean"] == "3.00" and row["Of K-prune"] == "0.50"


@pytest.mark.parametrize("file", ["cells", "shares", "retrained"])
def test_every_interval_of_the_committed_cells_holds_its_mean(file):
    cells = load(Path(__file__).parents[2] / "results" / f"{file}.csv")
    table = aggregate(cells)
    known = table.dropna(subset=DIFFERENCE)
    measured, low, high = (known[name] for name in DIFFERENCE)
    assert len(known) > 10 and ((low <= measured) & (measured <= high)).all()
    rows = TABLES["loss"].make(table)
    ends = re.findall(r"(−?[\d.]+) \[(−?[\d.]+), (−?[\d.]+)\]", rows.to_string())
    assert all(
        float(a.replace("−", "-")) <= float(m.replace("−", "-")) <= float(b.replace("−", "-")) for m, a, b in ends
    )
    assert len(ends) > 5 or file != "cells"
