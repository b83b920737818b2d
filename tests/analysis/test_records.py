import pandas as pd
import pytest

from analysis import collect, names, paper
from analysis.records import KEY, command, load, write_text
from kprune.errors import UserError


def test_a_row_a_cell(write_cell, outputs):
    write_cell()
    write_cell(variant={"mu": 2.0, "lambdas": [1e-4, 1.0]}, seed=1, latency=None)
    write_cell(task="stsb", flops_reduction_requested=None)
    cells = load(outputs)
    assert list(cells[list(KEY)].itertuples(index=False, name=None)) == [
        ("mrpc", "minilm", "kprune", "", "0.8", 0),
        ("mrpc", "minilm", "kprune", "lambdas=0.0001_1,mu=2", "0.8", 1),
        ("stsb", "minilm", "kprune", "", "2x", 0),
    ]
    first = cells.iloc[0]
    assert (first["score"], first["latency_speedup"], first["calibration_tokens"]) == (74.51, 2.5, 100000)
    assert (first["kept_heads"], first["kept_neurons"], first["torch"]) == ("3 2 0", "100 50 20", "2.13.0")
    assert cells["latency_speedup"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("content", ["", '{"task": "mr', "{}", "null", "[1]"])
def test_a_damaged_record_is_named_and_left_out(write_cell, outputs, capsys, content):
    write_cell()
    damaged = write_cell(seed=1)
    damaged.write_text(content)
    assert load(outputs)["seed"].tolist() == [0]
    assert str(damaged) in capsys.readouterr().err


def test_a_cell_counts_once(write_cell, outputs, capsys):
    write_cell().parents[4].rename(outputs / "first")
    write_cell(score=1.0)
    assert load(outputs)["score"].tolist() == [74.51]
    assert "mrpc/minilm/kprune/0.8/0 is there twice" in capsys.readouterr().err


def test_collected_cells_read_back_and_add_up(write_cell, outputs, tmp_path):
    file = tmp_path / "results" / "cells.csv"
    write_cell()
    write_cell(seed=1, variant={"tokens": 1000}, latency=None, commit="c0ffee")
    assert collect.collect(outputs, file) == (2, 0)
    pd.testing.assert_frame_equal(load(file), load(outputs), check_dtype=False)
    # Another machine's outputs: cells not run again stay, cells run again are replaced.
    outputs.rename(tmp_path / "elsewhere")
    write_cell(score=70.0)
    assert collect.collect(outputs, file) == (1, 1)
    assert load(file)["score"].tolist() == [70.0, 74.51]


def test_nothing_to_read_is_one_line(tmp_path, capsys):
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=str(source)):
            load(source)
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="lacks the column task"):
        load(other)
    assert command(lambda: load(tmp_path)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        write_text(tmp_path / "file" / "cells.csv", "")


def test_the_papers_values_only_for_the_same_model_and_task():
    assert paper.score("mrpc", "bert_base", "kprune", "0.8") == 84.9
    assert paper.score("squad", "distilbert", "kwon", "0.4") is not None
    for other in (
        ("mrpc", "minilm", "kprune", "0.8"),
        ("rte", "bert_base", "kprune", "0.8"),
        ("mrpc", "bert_base", "random", "0.8"),
        ("mrpc", "bert_base", "kprune", "0.81"),
        ("mrpc", "bert_base", "kprune", "2x"),
    ):
        assert paper.score(*other) is None
    assert set(paper.TASKS) <= set(names.TASKS) and set(paper.MODELS) <= set(names.MODELS)
