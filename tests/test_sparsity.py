"""Cells of methods that set single weights to zero: what their record says, what they save, and what tables show."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from world import environment, overrides

from analysis.aggregate import aggregate
from analysis.records import load
from analysis.tables import TABLES
from experiments.cell.runner import run_cell
from experiments.cell.saved import evaluate_saved
from experiments.config.cell import configured
from experiments.inputs import subject
from experiments.store.record import Record
from kprune.errors import UserError
from kprune.models import view_of


@pytest.fixture
def run(world, monkeypatch, tmp_path):
    """run("method=wanda", ...) runs a cell of the tiny world and returns its record and its folder."""
    for name, value in environment(world).items():
        monkeypatch.setenv(name, value)

    def run(*settings):
        usual = [entry for entry in overrides(world) if not entry.startswith("latency")]
        config = configured([*usual, *settings, f"outputs={tmp_path / 'outputs'}"])
        record = run_cell(config, "single", "python run.py")
        (file,) = (tmp_path / "outputs").glob(f"*/*/{record.name}/{record.target}/seed0/result.json")
        return record, file.parent

    return run


@pytest.mark.parametrize("method", ["sparsegpt", "wanda"])
@pytest.mark.parametrize("typed, target", [("0.5", "s0.5"), ("2:4", "2:4")])
def test_a_cell_says_its_zeros_and_that_nothing_got_smaller(run, tmp_path, capsys, method, typed, target):
    record, folder = run(f"method={method}", f"sparsity={typed}")
    assert Record.read(folder / "result.json") == record and folder.parts[-2] == str(record.target) == target
    content = json.loads((folder / "result.json").read_text())
    assert content["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert content["flops_reduction"] == content["params_reduction"] == content["params_reduction_of_model"] == 0
    assert content["latency"] is None and content["flops_reduction_requested"] is None
    assert content["kept_heads"] == [4] * 3 and content["kept_neurons"] == [48] * 3
    assert "50.0 % of the layers' weights are zero, no parameter and no FLOP less" in capsys.readouterr().out

    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert type(model).__name__ == "BertForSequenceClassification" and not list((folder / "model").glob("*.py"))
    weights = [module.weight for block in view_of(model).blocks for module in block.linears]
    assert sum((weight == 0).sum() for weight in weights) / sum(map(torch.numel, weights)) == content["sparsity"]
    card = (folder / "model/README.md").read_text()
    assert "| weights of the layers that are zero | | 50.0 % |" in card and "no faster" in card
    given = [f"evaluate={folder / 'model'}", f"method={method}", f"sparsity={typed}", "threads=1"]
    evaluated = evaluate_saved(configured(given))
    assert evaluated == pytest.approx(record.score)

    shown = TABLES["measurements"].make(aggregate(load(tmp_path / "outputs"))).iloc[0]
    assert (shown["FLOPs removed"], shown["Zeros"], shown["Speed-up"]) == ("0.0 %", "50.0 %", "–")


def test_a_finished_cell_of_zeros_is_found_and_a_pattern_is_another_cell(run, capsys):
    run("method=wanda", "sparsity=2:4")
    run("method=wanda", "sparsity=2:4")
    assert "finished before, score" in capsys.readouterr().out
    run("method=wanda", "sparsity=0.5")
    assert "finished before" not in capsys.readouterr().out


def test_groups_that_do_not_fit_are_told_before_the_dense_model_is_scored(run, monkeypatch):
    monkeypatch.setattr(subject.Subject, "dense", property(lambda _: pytest.fail("the dense model was scored")))
    with pytest.raises(UserError, match=r"sparsity=2:5 is of groups of 5 inputs, .* has 32: give a share"):
        run("method=wanda", "sparsity=2:5")
