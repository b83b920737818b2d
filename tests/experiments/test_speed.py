"""Latency tables, zeros, a large model and the check of a GPU on tiny shapes: what is measured, not how long it takes."""

import csv
import json
import sys
from importlib.metadata import version

import pandas as pd
import pytest
import torch
import yaml

from analysis.tables.beside_cells import zeros_time
from experiments.config.composing import CONF
from experiments.speed import gpu_check, large, latency_table, zeros
from experiments.speed.shapes import (
    ALLOCATIONS,
    SHAPES,
    flops_ratio,
    kept_counts,
    pruned_to,
    random_model,
    reference_shares,
)
from kprune.budgets.latency.timing import random_batch
from kprune.models import view_of
from kprune.models.flops import flops_reduction
from kprune.target import Target


def head_flops(s, d, d_h):
    """Four projections of d_h columns, and scores and weighted sum over s positions."""
    return 8 * s * d * d_h + 4 * s**2 * d_h


def neuron_flops(s, d):
    """One column in, one out."""
    return 4 * s * d


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("grain", [1, 16, 32])
def test_an_allocation_uses_up_a_fifth_of_bert_bases_flops(allocation, grain):
    shape = SHAPES["bert_base"]
    heads, neurons = kept_counts(shape, allocation, 128, grain)
    head, neuron = head_flops(128, 768, 64), neuron_flops(128, 768)
    left = 0.2 * 12 * (12 * head + 3072 * neuron) - sum(heads) * head - sum(neurons) * neuron
    assert 0 <= left < grain * neuron
    assert all(n % grain == 0 for n in neurons) and len(heads) == len(neurons) == 12
    if allocation == "even":
        assert max(heads) - min(heads) == 1 and max(neurons) - min(neurons) <= grain
        assert sum(heads) / 144 == pytest.approx(0.2, abs=0.005) and sum(neurons) / 12 / 3072 == pytest.approx(
            0.2, abs=0.01
        )
    else:
        assert heads == [0, 0, 3, 3, 5, 5, 9, 9, 6, 6, 9, 9]


def test_the_reference_s_shares_on_its_own_shape_are_its_counts():
    reference = yaml.safe_load((CONF / "allocation/mrpc_reference.yaml").read_text())
    heads, neurons = reference_shares(SHAPES["minilm"])
    assert [h * 12 for h in heads] == reference["kept_heads"] and [n * 1536 for n in neurons] == reference[
        "kept_neurons"
    ]
    kept = sum(heads) * head_flops(52.95, 384, 32) * 12 + sum(neurons) * neuron_flops(52.95, 384) * 1536
    assert kept / (6 * (12 * head_flops(52.95, 384, 32) + 1536 * neuron_flops(52.95, 384))) == pytest.approx(
        0.2, abs=1e-4
    )


def test_a_model_pruned_to_counts():
    dense = random_model(SHAPES["tiny"])
    pruned = pruned_to(dense, [0, 2], [5, 0])
    assert [s.units for s in view_of(pruned).blocks] == [0, 5, 2, 0]
    assert [s.units for s in view_of(dense).blocks] == [12, 768] * 2
    removed = flops_reduction(view_of(dense), view_of(pruned), 8)
    assert flops_ratio(dense, pruned, 8) == pytest.approx(1 / (1 - removed))


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """The command in this process: its exit code."""

    def run(*more, runtimes="eager,onnx"):
        arguments = ["--output", str(tmp_path / "results" / "latency.csv"), "--shape", "tiny", "--batches", "1,2"]
        arguments += ["--lengths", "4,8", "--runtimes", runtimes, *more]
        monkeypatch.setattr("sys.argv", ["latency_table", *arguments])
        return latency_table.main()

    return run


def test_the_latency_table_goes_on_where_it_was(measure, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(latency_table, "rounds", lambda device: (1, 3))
    monkeypatch.setitem(latency_table.RUNTIMES, "onnx", latency_table.eager)  # without the export, which takes seconds
    file = tmp_path / "results" / "latency.csv"
    assert measure("--minutes", "0") == 0 and capsys.readouterr().err.count("no time left") == 8 and not file.exists()
    assert measure(runtimes="eager") == 0
    first = list(csv.DictReader(file.open()))
    assert measure() == 0
    rows = list(csv.DictReader(file.open()))
    assert rows[:8] == first and len(rows) == 16, "finished cells stay as they were"
    assert {(r["runtime"], r["allocation"]) for r in rows} == {(r, a) for r in ("eager", "onnx") for a in ALLOCATIONS}
    for r in rows:
        assert float(r["speedup"]) == pytest.approx(float(r["dense_ms"]) / float(r["pruned_ms"]), rel=1e-4)
        assert float(r["speedup_low"]) <= float(r["speedup_high"]) and 1 <= int(r["repeats"]) <= 3
        assert r["device"] and r["torch"] == torch.__version__ and int(r["threads"]) >= 1
        assert r["runtime_version"] == (version("onnxruntime") if r["runtime"] == "onnx" else torch.__version__)
    assert measure(runtimes="nonsense") == 2
    file.write_text("a,b\n1,2\n")
    assert measure() == 2 and "other columns" in capsys.readouterr().err


def test_onnx_runtime_runs_the_model(tmp_path):
    model = random_model(SHAPES["tiny"])
    run = latency_table.onnx(model, tmp_path)(2, 8)
    with torch.inference_mode():
        logits = model(**random_batch(model, 2, 8)).logits
    torch.testing.assert_close(torch.from_numpy(run()[0]), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "more, words",
    [
        (["--grain", "0"], "--grain=0 is not a whole number from 1"),
        (["--batches", "1,0"], "--batches=0"),
        (["--lengths", "4000"], "--lengths=4000 is not a whole number from 1 to 512"),
        (["--threads", "-1"], "--threads=-1"),
        (["--minutes", "nan"], "--minutes=nan"),
        (["--device", "cuda:9"], "device=cuda:9 is not to be had here"),
        (["--runtimes", "graph"], "--runtimes graph is not to be had with --device cpu"),
        (
            ["--dtype", "bfloat16", "--runtimes", "onnx"],
            "--runtimes onnx is not to be had with --device cpu --dtype bfloat16",
        ),
        (["--output", "/proc/nope/latency.csv"], "another --output"),
        (["--output", "/tmp"], "another --output"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_measured(measure, monkeypatch, capsys, more, words):
    monkeypatch.setattr(latency_table, "random_model", lambda shape: pytest.fail("a model was made"))
    assert measure(*more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_the_goals_are_measured_first():
    order = latency_table.cells(["eager", "onnx"], [1, 8, 32, 128], [32, 128, 384])
    assert order[:4] == [("eager", 1, 128), ("eager", 32, 128), ("onnx", 1, 128), ("onnx", 32, 128)]
    assert len(order) == len(set(order)) == 24 and order[-1] == ("onnx", 128, 384)


@pytest.mark.parametrize("failure", [gpu_check.OUT_OF_TIME, -9])
def test_the_steps_of_the_check_of_a_gpu(failure, tmp_path, monkeypatch):
    """All are recorded, also one that is cut off for time or killed by a signal, and the next ones are tried."""
    commands = []

    def run_limited(command, seconds):
        commands.append(command[1:])
        return failure if "kprune.csv" in command[-1] else 0

    monkeypatch.setattr(gpu_check, "run_limited", run_limited)
    assert gpu_check.run(tmp_path, "cpu", small=True, seconds=600) == 1
    rows = {row["step"]: row["exit_code"] for row in csv.DictReader((tmp_path / "steps.csv").open())}
    assert rows == {name: "0" for name in (*gpu_check.METHODS, "tests", "latency")} | {"kprune": str(failure)}
    assert commands[0][:4] == ["-m", "pytest", "-q", "tests/test_gpu.py"]


def test_a_step_that_takes_too_long_is_ended():
    python = [sys.executable, "-c"]
    assert gpu_check.run_limited([*python, "import signal; signal.pause()"], 0.0) == gpu_check.OUT_OF_TIME
    assert gpu_check.run_limited([*python, "raise SystemExit(3)"], 60.0) == 3


@pytest.mark.slow
def test_the_check_of_a_gpu_on_a_cpu(tmp_path, monkeypatch):
    """Every step works and leaves its file."""
    monkeypatch.setattr(gpu_check, "METHODS", ("kprune",))
    assert gpu_check.run(tmp_path, "cpu", small=True, seconds=600) == 0
    assert {file.name for file in tmp_path.iterdir()} >= {"steps.csv", "kprune.csv", "tests.xml", "latency.csv"}
    measured = [row["method"] for row in csv.DictReader((tmp_path / "kprune.csv").open())]
    assert measured == ["kprune", "kprune:precision=reduced"][: 1 + gpu_check.reduced_is_faster(torch.device("cpu"))]


def test_the_check_of_a_gpu_where_there_is_none(monkeypatch, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr("sys.argv", ["gpu_check", "--output", str(tmp_path)])
    assert gpu_check.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: device=cuda is not to be had here")


@pytest.mark.parametrize("states", ["device", "disk"])
def test_a_large_model_is_pruned_and_its_memory_measured(states, monkeypatch, capsys):
    arguments = ["large", "tiny", "--tokens", "300", "--window", "30", "--states", states]
    monkeypatch.setattr("sys.argv", arguments)
    assert large.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["tokens"] == 300 and result["parameters_left"] < result["parameters"]
    assert result["loaded_mb"] > 0 and result["stages"]["fisher"] >= 0
    monkeypatch.setattr("sys.argv", [*arguments, "--layers-on", "cpu"])
    assert large.main() == 2 and "is where the model is" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, words",
    [
        (["--tokens", "0"], "--tokens=0 is not a whole number from 1"),
        (["--window", "0"], "--window=0 is not a whole number from 1"),
        (["--gpu-gb", "-1"], "--gpu-gb=-1.0 is not a number above 0"),
        (["--gpu-gb", "3"], "--gpu-gb 3 would be ignored"),
        (["--method", "kwon"], "--method kwon needs labels"),
    ],
)
def test_what_is_no_size_of_a_large_model_is_one_line(monkeypatch, capsys, given, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(large, "measured", lambda options: pytest.fail("a model was made"))
    monkeypatch.setattr("sys.argv", ["large", "tiny", *given])
    assert large.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_list_of_numbers_that_is_none_says_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["latency_table", "--batches", "1,many"])
    with pytest.raises(SystemExit) as ended:
        latency_table.main()
    assert ended.value.code == 2 and "--batches: '1,many' is no list of whole numbers" in capsys.readouterr().err


def test_zeros_are_in_every_row_of_the_layers_and_nowhere_else():
    dense = random_model(SHAPES["tiny"])
    for text, group, gone in (("s0.5", None, 0.5), ("2:4", 4, 2)):
        masked = zeros.zeroed(dense, Target.parse(text))
        weights = [module.weight for block in view_of(masked).blocks for module in block.linears]
        for weight in weights:
            rows = (weight == 0).unflatten(1, (-1, group)) if group else weight == 0
            assert (rows.sum(dim=-1) == (gone if group else gone * weight.shape[1])).all()
        assert sum(map(torch.numel, weights)) < sum(p.numel() for p in masked.parameters())
        changed = [name for name, p in masked.named_parameters() if not torch.equal(p, dense.get_parameter(name))]
        assert len(changed) == len(weights) == 12


def test_the_time_of_zeros_is_a_row_a_target_and_a_table(tmp_path, monkeypatch, capsys):
    file = tmp_path / "zeros_time.csv"
    arguments = ["zeros", "--shape", "tiny", "--batch", "1", "--length", "4", "--repeats", "2"]
    monkeypatch.setattr("sys.argv", [*arguments, "--output", str(file)])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert zeros.main() == zeros.main() == 0
    rows = list(csv.DictReader(file.open()))
    assert [row["target"] for row in rows] == ["s0.5", "2:4"]
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["dense_cpu_ms"]) / float(row["masked_cpu_ms"]), rel=1e-4)
    shown = zeros_time(pd.read_csv(file))
    assert shown["Weights"].tolist() == ["50 % zeros", "2:4 zeros"]
    monkeypatch.setattr("sys.argv", [*arguments, "--length", "1000"])
    assert zeros.main() == 2 and "--length=1000 is not a whole number from 1 to 512" in capsys.readouterr().err
