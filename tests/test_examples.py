"""Every script and the notebook of examples/, run in a process of its own on a tiny model; and the API reference."""

import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from commands import run_python
from tiny import tiny_calibration, tiny_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import kprune

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOK = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def texts(world, tmp_path_factory):
    """A file of the world's texts, one a line."""
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = (world / "data.csv").read_text().splitlines()[1:]
    file.write_text("\n".join(line.rpartition(",")[0] for line in lines))
    return file


def run(folder, *command, **variables):
    return run_python(list(command), os.environ | variables, folder)


def imported(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def predictions(model, tokenizer, texts):
    with torch.inference_mode():
        return [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts]


def test_every_example_is_run_here():
    tested = {"prune_your_classifier.py", "compare_your_own_method.py", "deploy_onnx.py", "tour.ipynb"}
    assert {file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".ipynb")} == tested
    page = (EXAMPLES / "README.md").read_text()
    assert all(f"({name})" in page for name in tested)


def test_prune_your_classifier(world, texts, tmp_path):
    command = [EXAMPLES / "prune_your_classifier.py", world / "checkpoint", texts, "pruned", "--flops-reduction", "0.6"]
    done = run(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pruned")
    dense = AutoModelForSequenceClassification.from_pretrained(world / "checkpoint").eval()
    held_out = texts.read_text().splitlines()[::10]
    pairs = zip(
        predictions(dense, tokenizer, held_out),
        predictions(kprune.load(tmp_path / "pruned"), tokenizer, held_out),
        strict=True,
    )
    same = sum(one == other for one, other in pairs)
    assert f"predicts the same for {same} of {len(held_out)} texts" in done.stdout
    removed = float(done.stdout.split("removed ")[1].split("%")[0])
    assert 60 <= removed < 65


SCRIPTS = ["prune_your_classifier.py", "compare_your_own_method.py", "deploy_onnx.py"]
NO_TEXTS = {"missing.txt": None, "empty.txt": b"\n", "latin.txt": "größe\n".encode("latin-1")}


def refused(monkeypatch, capsys, name, *arguments):
    """Return the one line that a script ends with."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2
    return line


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_wrong_is_told_in_one_line(name, world, texts, tmp_path, monkeypatch, capsys):
    output = [] if name.startswith("compare") else [tmp_path / "pruned"]
    given = (world / "checkpoint", texts, *output, "--flops-reduction", "8")
    more = ("--length", "8") if name.startswith("deploy") else ()
    assert "flops_reduction=8" in refused(monkeypatch, capsys, name, *given, *more)
    assert "/nowhere" in refused(monkeypatch, capsys, name, "/nowhere", texts, *output)
    for file, content in NO_TEXTS.items():
        if content is not None:
            (tmp_path / file).write_bytes(content)
        assert file in refused(monkeypatch, capsys, name, world / "checkpoint", tmp_path / file, *output)
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize("option, value", [("--length", 65), ("--length", 0), ("--batch-size", 0), ("--repeats", 0)])
def test_what_can_not_be_timed_is_told_before_anything_is_pruned(
    world, texts, tmp_path, monkeypatch, capsys, option, value
):
    given = (world / "checkpoint", texts, tmp_path / "deployed", *(() if option == "--length" else ("--length", 8)))
    line = refused(monkeypatch, capsys, "deploy_onnx.py", *given, option, value)
    assert option in line and "from 1 to 64" in line and not (tmp_path / "deployed").exists()


def test_compare_your_own_method(world, texts, tmp_path):
    done = run(tmp_path, EXAMPLES / "compare_your_own_method.py", world / "checkpoint", texts)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[1:]}
    assert set(rows) == {"kprune_plus", "kprune", "update_norm"}
    for removed, divergence, same in rows.values():
        assert 60 <= float(removed.rstrip("%")) < 65
        assert float(divergence) > 0 and 0 <= float(same.rstrip("%")) <= 100


def test_ones_own_method_takes_units_that_add_nothing_first():
    module = imported(EXAMPLES / "compare_your_own_method.py")
    model = tiny_model(dtype=torch.float32)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight[:, 8:16] = 0
            layer.output.dense.weight[:, 5:40] = 0
    # The units that add something have more than half of all FLOPs.
    outcome = kprune.prune(model, tiny_calibration(24).batches(), flops_reduction=0.5, method=module.UpdateNorm())
    for layer in range(3):
        assert 1 not in outcome.plan.kept[f"{layer}.attention"]
        kept = set(outcome.plan.kept[f"{layer}.ffn"])
        assert not kept & set(range(5, 40)) or kept >= {*range(5), *range(40, 48)}
    assert sum(outcome.kept_heads) > 0


def test_deploy_onnx(world, texts, tmp_path):
    settings = ["--batch-size", "2", "--length", "12", "--repeats", "2"]
    done = run(tmp_path, EXAMPLES / "deploy_onnx.py", world / "checkpoint", texts, "deployed", *settings)
    assert done.returncode == 0, done.stderr
    difference = done.stdout.split("between torch and ONNX: ")[1].split()[0]
    assert float(difference) < 1e-4
    assert "milliseconds for 2 x 12 tokens" in done.stdout
    times = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [line.rsplit(maxsplit=1)[0].strip() for line in times] == [
        "dense, torch",
        "pruned, torch",
        "dense, ONNX",
        "pruned, ONNX",
        "pruned, int8",
    ]
    assert (tmp_path / "deployed/model.onnx").stat().st_size < (tmp_path / "deployed/dense.onnx").stat().st_size


def test_the_notebook(world, texts, tmp_path):
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "cells.py").write_text("\n\n".join(cells), encoding="utf-8")
    done = run(tmp_path, "cells.py", CHECKPOINT=str(world / "checkpoint"), TEXTS=str(texts))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("neurons") == 3, "a line for each layer"
    assert done.stdout.count("of FLOPs removed: the same for") == 3
    assert kprune.load(tmp_path / "tour").config.model_type == "bert"


def test_the_notebook_is_committed_without_outputs():
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_the_api_reference_has_every_public_name(tmp_path):
    imported(ROOT / "docs/reference.py").build(tmp_path)
    page = (tmp_path / "kprune.html").read_text()
    for name in kprune.__all__:
        assert f'id="{name}"' in page
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in (ROOT / "kprune").rglob("*.py")}
    pages = {".".join(file.relative_to(tmp_path).with_suffix("").parts) for file in tmp_path.rglob("*.html")}
    assert {module.removesuffix(".__init__") for module in modules if not module.endswith("__main__")} <= pages
