"""Which K-prune cell a cell is compared with, and what of it reaches the committed file."""

import numpy as np
import pandas as pd
import pytest

from analysis import collect
from analysis.aggregate import aggregate
from analysis.pairing import DIFFERENCE, paired_draws
from analysis.records import load

RNG = np.random.default_rng(0)
RIGHT = {"values": RNG.random(100) < 0.9}
WRONG = {"values": RIGHT["values"] & (RNG.random(100) < 0.8)}


def difference_of(outputs, method, variant=""):
    cells = load(outputs)
    return cells[(cells["method"] == method) & (cells["variant"] == variant)][DIFFERENCE].iloc[0].tolist()


def test_same_examples_same_seed_same_target(write_cell, outputs, tmp_path):
    write_cell(RIGHT)
    write_cell(WRONG, method="kwon")
    measured, low, high = difference_of(outputs, "kwon")
    assert (
        measured == pytest.approx(100 * (WRONG["values"].mean() - RIGHT["values"].mean())) and low < measured < high < 0
    )
    assert all(map(np.isnan, difference_of(outputs, "kprune")))
    file = tmp_path / "cells.csv"
    collect.collect(outputs, file)
    pd.testing.assert_frame_equal(load(file)[DIFFERENCE], load(outputs)[DIFFERENCE], rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"flops_reduction_requested": 0.7},
        {"model": "bert_base"},
        {"metric": "f1"},
        {"checkpoint": {"source": "given", "sha256": "other"}},
        {"evaluation": {"split": "validation", "examples": 100, "majority": 50.0, "sha256": "other"}},
    ],
)
def test_no_pair_no_interval(write_cell, outputs, changes):
    write_cell(RIGHT)
    write_cell(WRONG, method="kwon", **changes)
    assert all(map(np.isnan, difference_of(outputs, "kwon")))


def test_the_reference_has_the_cells_own_calibration_set(write_cell, outputs):
    write_cell(RIGHT)
    write_cell(WRONG, variant={"tokens": 20000})
    write_cell(WRONG, variant={"tokens": 20000, "mu": 2})
    write_cell(WRONG, method="kwon", variant={"tokens": 20000})
    write_cell(WRONG, method="kwon", variant={"tokens": 111})  # a budget that K-prune has not: against its largest
    write_cell(WRONG, method="kwon", variant={"examples": 2048})
    write_cell(WRONG, variant={"examples": 1})
    assert difference_of(outputs, "kwon", "tokens=20000")[0] == 0
    assert difference_of(outputs, "kprune", "mu=2,tokens=20000")[0] == 0
    assert difference_of(outputs, "kwon", "tokens=111")[0] < 0
    assert difference_of(outputs, "kwon", "examples=2048")[0] < 0


def test_cells_of_another_machine_are_compared_with_the_kept_reference(write_cell, outputs, tmp_path):
    file = tmp_path / "cells.csv"
    write_cell(RIGHT)
    write_cell(RIGHT, variant={"mu": 2})
    collect.collect(outputs, file)
    kept = {"mrpc-minilm-kprune-0.8-0.npz", "mrpc-minilm-kprune-mu=2-0.8-0.npz"}
    assert {path.name for path in (tmp_path / "cells").iterdir()} == kept
    outputs.rename(tmp_path / "elsewhere")
    write_cell(WRONG, method="kwon")
    write_cell(WRONG, method="kcm", checkpoint={"source": "given", "sha256": "other"})
    assert collect.collect(outputs, file) == (2, 2)
    cells = load(file).set_index("method")["against_kprune"]
    assert cells["kwon"] == pytest.approx(100 * (WRONG["values"].mean() - RIGHT["values"].mean()), rel=1e-4)
    assert np.isnan(cells["kcm"])


def test_an_interval_against_a_cell_that_is_gone_goes_too(write_cell, outputs, tmp_path, capsys):
    """An earlier cell's own predictions are not kept, and so it can't be compared with K-prune's new cell."""
    file = tmp_path / "cells.csv"
    for task in ("mrpc", "stsb"):
        write_cell(RIGHT, task=task)
        write_cell(WRONG, task=task, method="kwon")
    collect.collect(outputs, file)
    outputs.rename(tmp_path / "elsewhere")
    write_cell(RIGHT, task="stsb")
    write_cell({"values": RIGHT["values"] & (RNG.random(100) < 0.9)}, score=70.0)
    assert collect.collect(outputs, file) == (2, 2)
    cells = load(file).set_index(["task", "method"])[DIFFERENCE]
    assert cells.loc["mrpc", "kwon"].isna().all() and cells.loc["stsb", "kwon"].notna().all()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mrpc/minilm/kwon/0.8/0 loses its interval")


def test_cells_without_predictions_or_with_damaged_ones(write_cell, outputs, capsys):
    write_cell(RIGHT)
    write_cell(method="magnitude")
    damaged = write_cell(WRONG, method="kwon").parent / "predictions.npz"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    assert all(map(np.isnan, difference_of(outputs, "kwon") + difference_of(outputs, "magnitude")))
    assert f"{damaged} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: np.save(file.open("wb"), np.zeros(3)),
        lambda file: np.savez(file, gold=np.zeros(3)),
        lambda file: np.savez(file, values=RIGHT["values"][:9]),
    ],
    ids=["one array", "no values", "fewer examples"],
)
def test_predictions_changed_by_hand_are_no_traceback(write_cell, outputs, damage):
    write_cell(RIGHT)
    damage(write_cell(WRONG, method="kwon").parent / "predictions.npz")
    assert all(map(np.isnan, difference_of(outputs, "kwon")))
    kprune, kwon = (row for _, row in aggregate(load(outputs)).sort_values("method").iterrows())
    assert paired_draws(kprune, kprune) is not None and paired_draws(kwon, kprune) is None


def test_a_collection_that_is_interrupted_keeps_no_interval_against_a_cell_that_is_gone(
    write_cell, outputs, tmp_path, monkeypatch
):
    file = tmp_path / "cells.csv"
    write_cell(RIGHT)
    write_cell(WRONG, method="kwon")
    collect.collect(outputs, file)
    assert load(file)[DIFFERENCE[0]].notna().tolist() == [False, True]
    outputs.rename(tmp_path / "elsewhere")
    write_cell(WRONG)
    for name, writer in (("write_whole", collect.write_whole), ("write_text", collect.write_text)):

        def interrupted(*arguments, writer=writer):
            writer(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(collect, name, interrupted)
            collect.collect(outputs, file)
    collect.collect(outputs, file)
    assert load(file)[DIFFERENCE[0]].isna().all()
