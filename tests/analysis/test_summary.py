"""The README's tables: what is in them, and that the committed ones are those of the committed cells."""

from pathlib import Path

import pytest

from analysis import readme, summary
from analysis.records import load

ROOT = Path(__file__).parents[2]
README = "# K\n<!-- table:accuracy -->\nstale\n<!-- /table:accuracy -->\n\n<!-- table:cost -->\n<!-- /table:cost -->\nend\n"


@pytest.fixture
def cells(write_cell, outputs):
    for task, shift in (("stsb", 1.0), ("mrpc", 0.0)):
        for method in ("kprune", "kprune_official"):
            for target, score in ((0.6, 77.0), (0.7, 76.0), (0.8, 74.0)):
                tokens = {} if target == 0.8 else {"tokens": 20000}
                write_cell(task=task, method=method, flops_reduction_requested=target, score=score + shift, variant=tokens)
    return load(outputs)


def test_accuracy_has_a_row_per_task_and_their_mean(cells):
    table = summary.accuracy(cells)
    assert list(table["Task"]) == ["MRPC (accuracy)", "STS-B (accuracy)", "**Mean**"]
    assert list(table.columns)[1:5] == ["dense", "`kprune` 60 %", "`kprune` 70 %", "`kprune` 80 %"]
    assert list(table["`kprune` 80 %"]) == ["74.00", "75.00", "74.50"]
    assert list(table["`kprune_official` 60 %"]) == ["77.00", "78.00", "77.50"]


def test_a_missing_cell_is_a_dash_and_its_task_not_in_the_mean(cells):
    missing = (cells["task"] == "stsb") & (cells["method"] == "kprune") & (cells["target"] == "0.7")
    table = summary.accuracy(cells[~missing])
    assert list(table["`kprune` 70 %"]) == ["76.00", "–", "76.00"]
    assert list(table["`kprune` 80 %"]) == ["74.00", "75.00", "74.00"]
    assert table["Task"].iloc[-1] == "**Mean** of the 1 without gaps"


def test_the_larger_calibration_budget_stands_and_ablations_do_not(write_cell, outputs):
    write_cell(score=74.0)
    write_cell(score=60.0, variant={"tokens": 1000})
    write_cell(score=50.0, variant={"mu": 2.0})
    table = summary.chosen(load(outputs))
    assert list(table["score"]) == [74.0]


def test_cost_names_the_machine(cells):
    assert len(summary.cost(cells)) == 12
    text = readme.cost(cells)
    assert "2.50x" in text and "12 s" in text and "100,000" in text
    assert "a CPU, batch 32 of 128 tokens, 2 threads" in text


def test_readme_is_rewritten_and_checked(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells.to_csv(tmp_path / "cells.csv", index=False)
    Path("README.md").write_text(README)
    arguments = ["readme", "--cells", "cells.csv"]
    monkeypatch.setattr("sys.argv", [*arguments, "--check"])
    with pytest.raises(SystemExit) as stale:
        readme.main()
    assert stale.value.code == 1 and Path("README.md").read_text() == README
    monkeypatch.setattr("sys.argv", arguments)
    readme.main()
    text = Path("README.md").read_text()
    assert "stale" not in text and "| MRPC (accuracy)" in text and text.endswith("\nend\n")
    monkeypatch.setattr("sys.argv", [*arguments, "--check"])
    readme.main()


def test_the_committed_readme_is_up_to_date():
    text, file = (ROOT / "README.md").read_text(), ROOT / "results" / "cells.csv"
    if file.is_file():
        assert readme.rewrite(text, load(file)) == text, "run python -m analysis.readme"
    else:
        assert not any(match["body"].strip() for match in readme.MARKED.finditer(text))
