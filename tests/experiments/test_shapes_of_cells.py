"""The speed-ups of the shapes of a file of cells, timed in one run."""

import shutil
import sys
from functools import partial

import pandas as pd
import pytest
from records import write_first_version

from analysis.collect import collect
from analysis.records import load
from experiments.speed import shapes_of_cells
from experiments.speed.shapes import DECODERS, SHAPES, DecoderShape, flops_ratio, pruned_to, random_model
from kprune.budgets.latency import timing

SHAPE = SHAPES["tiny"]
WHOLE = {"kept_heads": [SHAPE.heads] * SHAPE.layers, "kept_neurons": [SHAPE.neurons] * SHAPE.layers}
SMALL = {"kept_heads": [1] * SHAPE.layers, "kept_neurons": [16] * SHAPE.layers}


@pytest.fixture
def write_cell(tmp_path):
    return partial(write_first_version, tmp_path / "outputs")


@pytest.fixture
def time_again(tmp_path, monkeypatch):
    """time_again() collects the cells that were written, times their shapes, and returns exit code, file before and after."""
    monkeypatch.setattr(timing, "rounds", lambda device: (0, 1))

    def run(*options):
        file = tmp_path / "cells.csv"
        collect(tmp_path / "outputs", file)
        before = load(file)
        monkeypatch.setattr(sys, "argv", ["shapes_of_cells", str(file), *options])
        return shapes_of_cells.main(), before, load(file)

    return run


def test_cells_of_one_place_are_timed_beside_one_another_and_nothing_else_changes(write_cell, time_again):
    write_cell(model="tiny", method="kprune", **SMALL)
    write_cell(model="tiny", method="kwon", **SMALL)
    write_cell(model="tiny", method="random", **WHOLE)
    write_cell(model="tiny", task="stsb", method="kprune", **SMALL)
    code, before, after = time_again("--threads", "1")
    assert not code
    mrpc = after[after["task"] == "mrpc"].set_index("method")
    one, other, whole = (mrpc.loc[method] for method in ("kprune", "kwon", "random"))
    names = [name for name in after if name.startswith("latency_")]
    assert one[names].equals(other[names]) and one["latency_device"] != "a CPU"
    assert mrpc["latency_dense_ms"].nunique() == 1, "all methods alternate with one dense model"
    assert after["latency_dense_ms"].nunique() == 2, "another task has its own"
    assert one["latency_threads"] == 1 and one["latency_batch_size"] == 32 and one["latency_sequence_length"] == 128
    assert one["latency_pruned_ms"] != whole["latency_pruned_ms"]
    assert one["latency_speedup"] == pytest.approx(one["latency_dense_ms"] / one["latency_pruned_ms"], rel=1e-4)
    pd.testing.assert_frame_equal(before.drop(columns=names), after.drop(columns=names))


def test_collecting_again_keeps_the_times_of_the_same_runs(write_cell, time_again, tmp_path):
    again = write_cell(model="tiny", task="mrpc", **SMALL).parent
    write_cell(model="tiny", task="stsb", **SMALL)
    _, _, after = time_again()
    shutil.rmtree(again)
    write_cell(model="tiny", task="mrpc", **SMALL, pruning_seconds=1.0)
    collect(tmp_path / "outputs", tmp_path / "cells.csv")
    collected = load(tmp_path / "cells.csv")
    names = [name for name in after if name.startswith("latency_")]
    pd.testing.assert_frame_equal(collected.loc[[1], names], after.loc[[1], names])
    assert collected["latency_speedup"][0] == 2.5, "another run brings its own"


def test_a_timed_model_has_the_widths_of_its_cell(monkeypatch):
    timed = []
    monkeypatch.setattr(
        shapes_of_cells, "pruned_to", lambda dense, *kept: timed.append(pruned_to(dense, *kept)) or timed[-1]
    )
    monkeypatch.setattr(timing, "rounds", lambda device: (0, 1))
    heads, neurons = " ".join(["3"] * SHAPE.layers), " ".join(["192"] * SHAPE.layers)
    list(shapes_of_cells.time_shapes(random_model(SHAPE), False, [(heads, neurons)]))
    assert flops_ratio(random_model(SHAPE), timed[0], 128) == pytest.approx(4)


def test_a_language_model_is_timed_at_a_prompt_and_a_step_too(write_cell, time_again, monkeypatch):
    monkeypatch.setitem(
        DECODERS, "tiny_decoder", DecoderShape(layers=2, hidden=24, heads=4, groups=2, neurons=32, tokens=60)
    )
    kept = {"shapes": ([2, 1], [16, 8]), "whole layers": ([2, 0], [32, 0])}
    for method, (heads, neurons) in kept.items():
        write_cell(model="tiny_decoder", method=method, kept_heads=heads, kept_neurons=neurons)
    code, _, after = time_again()
    assert not code
    assert set(after["latency_batch_size"]) == {1} and set(after["latency_sequence_length"]) == {512}
    for speed in ("prefill", "decoding"):
        assert after[f"latency_{speed}_dense"].nunique() == 1, "all alternate with one dense model"
        assert after[f"latency_{speed}_pruned"].nunique() == 2 and after[f"latency_{speed}_pruned"].gt(0).all()


def test_what_has_no_shape_to_time_has_no_latency(write_cell, time_again):
    write_cell(model="tiny", **SMALL)
    write_cell(model="tiny", task="stsb", method="ebert", kept_heads=[1.5] * 6, kept_neurons=[10.5] * 6)
    write_cell(model="bert_base_of_mine", task="sst2")
    # A checkpoint of one's own, under the usual name.
    write_cell(model="tiny", task="qnli", kept_heads=[1], kept_neurons=[1])
    write_cell(model="tiny", task="qqp", **WHOLE | {"kept_neurons": [SHAPE.neurons + 1] * SHAPE.layers})
    code, _, after = time_again()
    assert not code
    timed = after.set_index("task")["latency_speedup"].notna()
    assert timed[timed].index.tolist() == ["mrpc"] and len(timed) == 5


def test_an_older_file_gets_the_columns_that_it_lacks(write_cell, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "rounds", lambda device: (0, 1))
    write_cell(model="tiny", **SMALL)
    collect(tmp_path / "outputs", tmp_path / "cells.csv")
    file = tmp_path / "older.csv"
    pd.read_csv(tmp_path / "cells.csv").drop(columns="latency_dense_ms").to_csv(file, index=False)
    monkeypatch.setattr(sys, "argv", ["shapes_of_cells", str(file)])
    assert shapes_of_cells.main() == 0 and load(file)["latency_dense_ms"].notna().all()


def test_a_file_without_a_shape_to_time_stays_as_it_is(write_cell, time_again, capsys):
    write_cell(model="bert_base_of_mine")
    code, before, after = time_again()
    assert code == 2 and "no cell here has a shape to time" in capsys.readouterr().err
    pd.testing.assert_frame_equal(before, after)
