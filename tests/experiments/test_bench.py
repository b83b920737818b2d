"""What pruning costs, measured on a tiny shape."""

import csv
import os

import pytest
import torch
from commands import run_python
from tiny import tiny_labelled, tiny_model

from experiments.config.methods import method_with
from experiments.speed import large
from experiments.speed.bench import __main__ as command
from experiments.speed.bench.child import measured, random_calibration
from experiments.speed.bench.reference import WholeModel
from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.errors import UserError
from kprune.methods.kprune_plus import first_pass
from kprune.models import view_of
from kprune.models.flops import flops_reduction
from kprune.objectives import objective_of


@pytest.mark.parametrize(
    "more, words",
    [
        (["--shapes", "tiny,nonsense"], "nonsense"),
        (["--tokens", "300,0"], "--tokens=0"),
        (["--threads", "0"], "--threads=0"),
        (["--device", "cuda:9"], "device=cuda:9 is not to be had here"),
        (["--methods", "kwon,nonsense"], "nonsense"),
        (["--methods", "random:precision=reduced"], "method random does not run the model"),
        (["--methods", "kwon:precision=half"], "precision='half' is unknown"),
        (["--methods", "kwon:flops_reduction=0.5_x"], "give shares of FLOPs as flops_reduction=0.5_0.6_0.7"),
        (["--methods", "kwon:flops_reduction=1.5"], "flops_reduction=1.5"),
        (["--output", "/proc/nope/bench.csv"], "another --output"),
    ],
)
def test_a_wrong_option_of_the_benchmark_is_told_before_anything_is_measured(
    monkeypatch, tmp_path, capsys, more, words
):
    monkeypatch.setattr(command, "measured", lambda *_: pytest.fail("something was measured"))
    monkeypatch.setattr("sys.argv", ["bench", "--output", str(tmp_path / "bench.csv"), *more])
    assert command.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_the_whole_model_way_meets_the_budget():
    model, calibration = tiny_model(dtype=torch.float32), tiny_labelled(examples=24)
    job = Job(model, objective_of(model), PruningData(calibration), FlopsBudget(0.6, 8.0))
    outcome = WholeModel().prune(job)
    assert 0.6 <= flops_reduction(view_of(model), view_of(outcome.model), 8.0) + 1e-9 < 0.75
    assert set(outcome.seconds_by_stage) == {"teacher", "knowledge", "mask_search", "weight_tuning"}


def test_the_benchmark_on_a_tiny_shape(tmp_path, monkeypatch, capsys):
    file, methods = tmp_path / "bench.csv", "floor,whole_model,kprune,kprune:measure_every=2,kwon"
    arguments = ["--shapes", "tiny", "--tokens", "2500", "--methods", methods, "--output", str(file)]
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    here = lambda shape, tokens, method, threads, device: (  # noqa: E731
        {"shape": shape, "method": method, "threads": 1} | measured(shape, tokens, method, torch.device(device))
    )
    monkeypatch.setattr(command, "measured", here)
    assert command.main() == 0
    rows = {r["method"]: r for r in csv.DictReader(file.open())}
    assert list(rows) == methods.split(",") and set(next(iter(rows.values()))) == set(command.COLUMNS)
    for name, r in rows.items():
        assert int(r["tokens"]) < int(r["padded_tokens_sorted"]) < int(r["padded_tokens_drawn"])
        if name != "floor":
            assert float(r["units"]) == pytest.approx(float(r["seconds"]) / float(r["forward_seconds"]), rel=1e-4)
    assert float(rows["floor"]["units"]) > 4 + 3 and rows["floor"]["seconds"] == ""
    assert "knowledge=" in rows["kprune"]["stages"] and "whole_model" in capsys.readouterr().out
    for method, device, seconds in (("one", "a", 1), ("other", "a", 2), ("one", "b", 3), ("one", "a", 4)):
        command.write(file, {"shape": "tiny", "tokens": 7, "method": method, "device": device, "seconds": seconds})
    written = [(r["method"], r["seconds"]) for r in csv.DictReader(file.open()) if r["tokens"] == "7"]
    assert written == [("other", "2"), ("one", "3"), ("one", "4")], "other methods and machines stay"
    monkeypatch.setattr(command, "measured", lambda *given: pytest.fail() if given[2] == "kwon" else here(*given))
    monkeypatch.setattr("sys.argv", ["bench", *arguments[:-3], "floor,kwon", "--output", str(tmp_path / "cut.csv")])
    with pytest.raises(pytest.fail.Exception):
        command.main()
    assert [r["method"] for r in csv.DictReader((tmp_path / "cut.csv").open())] == ["floor"], (
        "what was measured is kept"
    )
    file.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="other columns"):
        command.write(file, {"shape": "tiny", "tokens": 7, "method": "one", "device": "a"})


def test_several_reductions_share_what_is_measured_once(monkeypatch):
    passes, measure = [], first_pass.measure_fisher
    monkeypatch.setattr(first_pass, "measure_fisher", lambda *given: passes.append(given) or measure(*given))
    one = measured("tiny", 300, "kprune_plus_fast:ridge=0.02", torch.device("cpu"))
    several = measured("tiny", 300, "kprune_plus_fast:flops_reduction=0.5_0.6_0.99", torch.device("cpu"))
    assert len(passes) == 2 and one["flops_reduction"] == "0.8" and several["flops_reduction"] == "0.5_0.6_0.99"


def test_a_process_of_its_own(monkeypatch):
    run = lambda arguments, **_: run_python(arguments[1:], dict(os.environ))  # noqa: E731
    monkeypatch.setattr(command.subprocess, "run", run)
    report = command.measured("tiny", 300, "kwon", threads=1)
    assert report["threads"] == 1 and report["method"] == "kwon" and report["peak_mb"] > 0
    with pytest.raises(UserError, match="nonsense on tiny with 300 tokens failed: .*method=nonsense is unknown"):
        command.measured("tiny", 300, "nonsense", None)


def test_what_the_benchmark_runs_on():
    calibration = random_calibration(2000, 1000)
    assert calibration.tokens == pytest.approx(2000, rel=0.1)
    assert [e["input_ids"] for e in calibration.examples] == [
        e["input_ids"] for e in random_calibration(2000, 1000).examples
    ]
    method = method_with("kprune:measure_every=4:knowledge.temperature=3.0")
    assert method.measure_every == 4 and method.knowledge.temperature == 3.0
    methods = command.default_methods()
    assert not {"sparsegpt", "wanda"} & set(methods), "no share of FLOPs is theirs to remove"
    assert methods[:2] == ["floor", "whole_model"] and {"kwon", "kcm", "kprune", "kprune_plus", "kprune_fast"} <= set(
        methods
    )
    assert not {"llm_pruner", "magnitude", "cofi"} & set(methods), "classifiers are what it runs on"


@pytest.mark.parametrize(
    "options, method",
    [
        (["--method", "kprune"], "kprune"),
        (["--states", "cpu", "--layers-on", "cuda"], "kprune_plus_fast:states=cpu:layers_on=cuda"),
    ],
)
def test_a_method_of_a_large_model_is_told_what_was_given_alone(monkeypatch, capsys, options, method):
    monkeypatch.setattr(large, "measured", lambda given: method_with(given.method) and given.method)
    monkeypatch.setattr("sys.argv", ["large", "tiny", *options])
    assert large.main() == 0 and capsys.readouterr().out == f'"{method}"\n'
