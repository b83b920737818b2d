import sys

import pytest

from analysis import figures, readme, tables
from analysis.records import load
from kprune.errors import UserError


@pytest.fixture
def table(write_cell, outputs):
    """MRPC at 70 and 80 %, two seeds at 80 %, and SQuAD by another method."""
    write_cell(flops_reduction_requested=0.7, variant={"tokens": 20000}, score=76.0)
    write_cell(score=74.0)
    write_cell(seed=1, score=75.0)
    write_cell(task="squad", metric="f1", method="kprune_official", dense_score=74.6, score=60.0, latency=None)
    return tables.aggregate(load(outputs))


def test_scores_by_target(table):
    shown = tables.score_table(table).set_index("Task")
    assert list(shown.columns) == ["Metric", "Dense", "Method", "70 %", "80 %"]
    # The calibration budget differs by target, not within one: it makes no method of its own.
    assert shown.loc["MRPC"].tolist() == ["accuracy", "78.19", "K-prune", "76.00", "74.50 ± 0.71"]
    assert shown.loc["SQuAD 1.1"].tolist() == ["f1", "74.60", "K-prune, authors' code", "–", "60.00"]


def test_every_measurement(table):
    shown = tables.cell_table(table)
    assert "Paper" not in shown
    first, last = shown.iloc[0], shown.iloc[-1]
    assert (first["Asked"], first["FLOPs removed"], first["Params removed"]) == ("70 %", "80.1 %", "39.5 %")
    assert (first["Pruning"], first["Speed-up"], last["Speed-up"]) == ("12.3 s", "2.50x", "–")
    assert first["Calibration tokens"] == "100,000"


def test_calibration_budgets_side_by_side_stay_apart(write_cell, outputs):
    write_cell()
    write_cell(variant={"tokens": 1000})
    shown = tables.cell_table(tables.aggregate(load(outputs)))
    assert shown["Method"].tolist() == ["K-prune", "K-prune (tokens=1000)"]


def test_the_papers_score_stands_beside_the_same_model(write_cell, outputs):
    write_cell(model="bert_base")
    write_cell()
    write_cell(model="bert_base", variant={"mu": 2.0})
    shown = tables.cell_table(tables.aggregate(load(outputs)))
    assert shown[["Model", "Method", "Paper"]].to_numpy().tolist() == [
        ["BERT-base", "K-prune", "84.90"],
        ["BERT-base", "K-prune (mu=2)", "–"],
        ["MiniLM-L6", "K-prune", "–"],
    ]


def test_targets_in_order(write_cell, outputs):
    write_cell(flops_reduction_requested=None)
    write_cell(flops_reduction_requested=0.75)
    write_cell()
    shown = tables.score_table(tables.aggregate(load(outputs)))
    assert list(shown.columns)[-3:] == ["75 %", "80 %", "2x"]


@pytest.mark.parametrize("form, expected", [("markdown", "| MRPC "), ("latex", r"\toprule"), ("csv", "mrpc,minilm")])
def test_command(table, outputs, monkeypatch, capsys, form, expected):
    monkeypatch.setattr(sys, "argv", ["tables", str(outputs), "--format", form])
    tables.main()
    written = sorted((outputs / "tables").iterdir())
    printed = capsys.readouterr().out
    assert expected in printed and all(str(path) in printed for path in written)
    assert "a CPU, batch 32 of 128 tokens, 2 threads" in printed
    assert [path.name for path in written] == ["cells.csv", "cells.md", "cells.tex", "scores.md", "scores.tex"]


def test_latex_is_escaped():
    assert tables.latex("80 % a_b ± –") == r"80 \% a\_b $\pm$ --"


def test_figure_has_a_panel_per_task(table, outputs, monkeypatch, capsys):
    figure = figures.score_against_flops(table)
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == ["MRPC", "SQuAD 1.1"]
    assert [axis.get_ylabel() for axis in panels] == ["Accuracy (%)", "F1 (%)"]
    dense = panels[0].get_lines()[0]
    assert set(dense.get_ydata()) == {78.19}
    monkeypatch.setattr(sys, "argv", ["figures", str(outputs)])
    figures.main()
    for suffix, start in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        path = outputs / "figures" / f"score_against_flops.{suffix}"
        assert path.read_bytes().startswith(start) and str(path) in capsys.readouterr().out + str(path)


def test_the_papers_curve_is_drawn_for_the_same_model(write_cell, outputs):
    write_cell(model="bert_base", flops_reduction_requested=0.6, flops_reduction=0.6)
    write_cell(model="bert_base")
    figure = figures.score_against_flops(tables.aggregate(load(outputs)))
    (curve,) = [line for line in figure.axes[0].get_lines() if "paper" in str(line.get_label())]
    assert list(curve.get_xdata()) == pytest.approx([60, 65, 70, 75, 80])


def test_readme_tables_are_rewritten(table, outputs):
    cells = load(outputs)
    text = "before\n<!-- table:accuracy -->\nold\n<!-- /table:accuracy -->\n<!-- table:demo -->\n<!-- /table:demo -->\nafter\n"
    written = readme.rewrite(text, cells)
    assert "old" not in written and "| MRPC " in written and written.endswith("after\n")
    assert "<!-- table:demo -->\n<!-- /table:demo -->" in written
    assert readme.rewrite(written, cells) == written


@pytest.mark.parametrize("text", ["<!-- table:other -->\n<!-- /table:other -->", "<!-- table:cost -->\n"])
def test_wrong_markers(table, outputs, text):
    with pytest.raises(UserError, match="README"):
        readme.rewrite(text, load(outputs))

