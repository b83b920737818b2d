"""What models cost in onnxruntime: rows and table; not how long anything takes."""

import csv

import pandas as pd
import pytest
import torch
from world import overrides

from analysis.tables.served import served as table
from experiments.speed import served
from experiments.speed.shapes import SHAPES, random_model
from kprune.checkpoint import export_onnx

pytest.importorskip("onnxruntime")


@torch.inference_mode()
def test_an_exported_model_answers_as_itself(tmp_path):
    """Without token types, too, and with kernels of either kind."""
    model = random_model(SHAPES["tiny"])
    file = export_onnx(model, tmp_path)
    batch = {"input_ids": torch.randint(0, 50, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    for fused in served.FUSED_NORMS:
        answer = served.Served(file, fused)(**batch)
        torch.testing.assert_close(answer.logits, model(**batch).logits, rtol=1e-4, atol=1e-5)


def test_a_row_for_each_kind_and_batch_size_and_a_table(world, tmp_path, monkeypatch, capsys):
    file = tmp_path / "served.csv"
    cell = [entry for entry in overrides(world) if entry.startswith(("task", "model", "calibration"))]
    cell, share = [*cell, "method=magnitude"], "flops_reduction=0.6"
    options = ["--batches", "1", "2", "--length", "8", "--repeats", "2", "--output", str(file)]
    monkeypatch.setattr("sys.argv", ["served", *cell, share, *options])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert served.main() == served.main() == 0
    rows = list(csv.DictReader(file.open()))
    assert len(rows) == 2 * 2 * 2 * 2
    small, large = (sum(float(r["megabytes"]) for r in rows if r["dtype"] == d) for d in ("int8", "float32"))
    assert small < large
    whole = [r for r in rows if r["dtype"] == "float32"]
    scores = {r["units"]: r["score"] for r in whole}
    assert all(r["score"] == scores[r["units"]] for r in whole), "which kernels run makes no difference"
    shown = table(pd.read_csv(file))
    assert shown["Units"].tolist() == ["dense"] * 4 + ["magnitude, 60 %"] * 4
    assert shown["Weights"].tolist() == ["float32", "float32", "int8", "int8"] * 2
    assert shown["Sum and norm"].tolist() == ["one kernel", "two kernels"] * 4
    assert all("(1.00x)" in shown[column][0] for column in ("1 x 8 tokens", "2 x 8 tokens"))
    capsys.readouterr()
    monkeypatch.setattr(served, "pruned", lambda *_: pytest.fail("a model was pruned"))
    for wrong, message in (
        ([share, "--length", "4000"], "give a shorter length"),
        ([share, "--batches", "0"], "--batches=0 is not a whole number from 1"),
        (
            ["budget=parameters", "params_reduction=0.2"],
            "budget=parameters would be ignored: give calibration, flops_reduction",
        ),
        ([share, "vocabulary=calibration"], "vocabulary=calibration would be ignored"),
        ([share, "method=ebert"], "method ebert leaves no smaller model to export"),
    ):
        monkeypatch.setattr("sys.argv", ["served", *cell, *wrong, *options[-2:]])
        assert served.main() == 2 and message in capsys.readouterr().err
