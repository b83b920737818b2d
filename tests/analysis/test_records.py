import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pandas as pd
import pytest

from analysis import collect, names, paper, report
from analysis.aggregate import aggregate
from analysis.figures import __main__ as figures
from analysis.records import KEY, load
from analysis.tables import __main__ as tables
from kprune.errors import UserError, command
from kprune.files import write_text, write_whole


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


LATENCY = {"device": "a CPU", "batch_size": 32, "sequence_length": 128, "threads": 2, "dense_ms": 1.0, "pruned_ms": 1.0}


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"score": "high"}, "score is 'high'"),
        ({"score": float("nan")}, "score is nan"),
        ({"dense_score": True}, "dense_score is True"),
        ({"seed": "zero"}, "seed is 'zero'"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"latency": LATENCY | {"speedup": "fast"}}, "latency.speedup is 'fast'"),
        ({"latency": LATENCY | {"speedup": float("inf")}}, "latency.speedup is inf"),
        ({"variant": {"tokens": "many"}}, "variant is 'tokens=many'"),
        ({"variant": {"my,key": 1}}, "variant is 'my,key=1'"),
        ({"task": None}, "task is None"),
        ({"metric": 3}, "metric is 3"),
        ({"kept_heads": []}, "kept_heads is ''"),
        ({"higher_is_better": "yes"}, "higher_is_better is 'yes'"),
        ({"evaluation": {"majority": 50.0}}, "evaluation.split is missing"),
        ({"config": {"method": {"lambdas": ["small"]}}}, "lambda is 'small'"),
    ],
)
def test_a_record_of_the_wrong_type_is_named_and_left_out(write_cell, outputs, capsys, changes, named):
    write_cell()
    damaged = write_cell(model="other")
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | changes))
    assert load(outputs)["model"].tolist() == ["minilm"]
    (line,) = capsys.readouterr().err.splitlines()
    assert str(damaged) in line and named in line


def test_a_target_that_is_none_is_named_and_left_out(write_cell, outputs, capsys):
    write_cell()
    write_cell(task="stsb", target="old")
    assert load(outputs)["task"].tolist() == ["mrpc"]
    assert "target 'old' is unknown" in capsys.readouterr().err


def test_targets_are_what_the_record_says_whatever_its_folder_is_called(write_cell, outputs):
    write_cell()
    write_cell(task="rte", flops_reduction_requested=None, target="p0.2", params_reduction_requested=0.2)
    path = write_cell(task="stsb", flops_reduction_requested=None)
    path.parents[1].rename(path.parents[2] / "moved")
    assert load(outputs).set_index("task")["target"].to_dict() == {"mrpc": "0.8", "rte": "p0.2", "stsb": "2x"}


def test_a_comma_within_a_setting_parts_nothing(write_cell, outputs, tmp_path):
    write_cell(variant={"file": "my,cal", "mu": 2.0})
    assert load(outputs)["variant"].tolist() == ["file=my_cal,mu=2"]
    collect.collect(outputs, tmp_path / "cells.csv")
    assert aggregate(load(tmp_path / "cells.csv"))["settings"].tolist() == ["file=my_cal,mu=2"]


def test_a_file_of_examples_without_a_budget_is_compared(write_cell, outputs):
    write_cell(variant={"file": "examples", "tokens": None})
    write_cell(method="kwon", variant={"tokens": 1000})
    assert load(outputs)["variant"].tolist() == ["file=examples,tokens=None", "tokens=1000"]


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda lines: lines[:1], "no row below its header"),
        (lambda lines: [], "readable CSV file"),
        (lambda lines: [*lines[:2], lines[2][:-9]], "ends within a line"),
        (lambda lines: [lines[0], lines[1].replace("74.51", "high"), lines[2]], "line 2: score is 'high'"),
        (lambda lines: [*lines[:2], lines[2].replace("74.51", "")], "line 3: score is nan"),
        (lambda lines: [*lines[:2], lines[2].replace("74.51", "inf")], "line 3: score is inf"),
        (
            lambda lines: [*lines[:2], lines[2].replace("tokens=1000", "tokens=many")],
            "line 3: variant is 'tokens=many'",
        ),
        (lambda lines: [*lines[:2], lines[2].replace("tokens=1000", "tokens")], "line 3: variant is 'tokens'"),
        (lambda lines: [*lines[:2], lines[2].replace(",0.8,", ",most,")], "line 3: target is 'most'"),
        (lambda lines: [*lines[:2], lines[2].replace("3 2 0", "3 two 0")], "line 3: kept_heads is '3 two 0'"),
    ],
)
def test_a_damaged_csv_is_one_line(write_cell, outputs, tmp_path, monkeypatch, capsys, damage, named):
    write_cell()
    write_cell(seed=1, variant={"tokens": 1000})
    file = tmp_path / "cells.csv"
    collect.collect(outputs, file)
    text = "".join(damage(file.read_text().splitlines(keepends=True)))
    file.write_text(text)
    for main in (tables.main, figures.main, report.main, collect.main):
        arguments = [str(outputs), str(file)] if main == collect.main else [str(file)]
        monkeypatch.setattr(sys, "argv", ["analysis", *arguments])
        capsys.readouterr()
        assert main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(file) in line and named in line
    assert file.read_text() == text and not (tmp_path / "tables").exists() and not (tmp_path / "report.html").exists()


def test_a_cell_counts_once(write_cell, outputs, capsys):
    write_cell().parents[4].rename(outputs / "first")
    write_cell(score=1.0)
    assert load(outputs)["score"].tolist() == [74.51]
    assert "mrpc/minilm/kprune/0.8/0 is there twice" in capsys.readouterr().err


def test_a_row_of_a_csv_that_is_there_twice_is_no_second_seed(write_cell, outputs, tmp_path, capsys):
    file = tmp_path / "cells.csv"
    write_cell()
    collect.collect(outputs, file)
    text = file.read_text()
    file.write_text(text + text.splitlines(keepends=True)[1])
    assert aggregate(load(file))["seeds"].tolist() == [1]
    assert "mrpc/minilm/kprune/0.8/0 is there twice" in capsys.readouterr().err


def test_collected_cells_read_back_and_add_up(write_cell, outputs, tmp_path):
    file = tmp_path / "results" / "cells.csv"
    write_cell()
    write_cell(seed=1, variant={"tokens": 1000}, latency=None, commit="c0ffee")
    assert collect.collect(outputs, file) == (2, 0)
    again, written = (load(source).drop(columns="predictions") for source in (file, outputs))
    pd.testing.assert_frame_equal(again, written, check_dtype=False)
    # Another machine's outputs: cells not run again stay, cells run again are replaced.
    outputs.rename(tmp_path / "elsewhere")
    write_cell(score=70.0)
    assert collect.collect(outputs, file) == (1, 1)
    assert load(file)["score"].tolist() == [70.0, 74.51]


def test_writers_at_the_same_time_lose_no_cell(write_cell, outputs, tmp_path):
    """Each has a machine's outputs of its own; all start together and write to one file."""
    file, folders = tmp_path / "results" / "cells.csv", []
    for seed in range(6):
        write_cell({"values": np.ones(9, bool)}, seed=seed)
        write_cell(seed=seed, method="kwon")
        folders.append(outputs.rename(tmp_path / f"machine{seed}"))
    together = Barrier(len(folders))

    def collect_one(folder):
        together.wait()
        return collect.collect(folder, file)

    with ThreadPoolExecutor(len(folders)) as pool:
        done = list(pool.map(collect_one, folders))
    assert sorted(kept for _, kept in done) == [0, 2, 4, 6, 8, 10], "each found what those before it had written"
    assert load(file).groupby("method")["seed"].agg(list).to_dict() == {"kprune": [*range(6)], "kwon": [*range(6)]}
    assert sorted(path.name for path in file.parent.iterdir()) == ["cells", "cells.csv"]


def test_nothing_to_read_is_one_line(tmp_path, capsys):
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=str(source)):
            load(source)
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="lacks the column task"):
        load(other)
    assert command(lambda: load(tmp_path))() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        write_text(tmp_path / "file" / "cells.csv", "")


def test_a_file_half_written_leaves_the_old_one_alone(tmp_path):
    file = tmp_path / "figure.pdf"
    file.write_text("old")

    def fails(temporary):
        assert temporary.parent == tmp_path and temporary.suffix == ".pdf"
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_whole(file, fails)
    assert [path.name for path in tmp_path.iterdir()] == ["figure.pdf"] and file.read_text() == "old"


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
    conf = Path(__file__).parents[2] / "conf"
    tasks, models = ({file.stem for file in (conf / group).glob("*.yaml")} for group in ("task", "model"))
    assert models == set(names.MODELS) and {task for task in tasks if not task.startswith("custom")} == set(names.TASKS)
