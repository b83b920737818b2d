"""What a tracked cell leaves in the offline run's file."""

import json
import struct
import time
from dataclasses import replace

import pytest
import wandb
from records import record
from wandb.proto.wandb_internal_pb2 import Record

from experiments.cell.tracking import losses, track, track_sweep
from kprune.errors import UserError

RESULT = record(
    variant={"mu": 2.0},
    seed=3,
    score=80.25,
    kept_heads=[3, 0],
    kept_neurons=[100, 7],
    config={"seed": 3, "method": {"name": "kprune", "mu": 2.0}},
)


@pytest.fixture(autouse=True)
def no_mode_from_outside(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)


def read_back(path):
    """The records of a .wandb file, which is a LevelDB log: 32 KiB blocks of pieces (checksum, length, kind)."""
    content, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield Record.FromString(whole)
            whole = b""


def finished_run(folder):
    """The records of the one run under `folder`; W&B's own process may write the last ones after the run is closed."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(100):
        records = list(read_back(file))
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def items(entries):
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


def test_an_offline_run_holds_the_cell(tmp_path, capfd):
    track(RESULT, "sweep-1", "offline", str(tmp_path / "outputs"))
    assert capfd.readouterr() == ("", "")
    records = finished_run(tmp_path / "outputs")
    run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (run.run_group, run.job_type) == ("sweep-1", "kprune+mu=2")
    assert run.display_name == "mrpc/minilm/kprune+mu=2/0.8/seed3"
    config = items(run.config.update)
    assert config["seed"] == 3 and config["method"] == {"name": "kprune", "mu": 2.0}
    history = [items(record.history.item) for record in records if record.WhichOneof("record_type") == "history"]
    layers = [(row["kept/layer"], row["kept/heads"], row["kept/neurons"]) for row in history if "kept/layer" in row]
    assert layers == [(0, 3, 100), (1, 0, 7)]
    cell = next(row for row in history if "score" in row)
    logged = {
        "score": 80.25,
        "dense_score": 84.5,
        "flops_reduction": 0.8125,
        "pruning_seconds": 12.5,
        "seconds/knowledge": 7.5,
        "seconds/tuning": 5.0,
        "latency/dense_ms": 30.0,
        "latency/pruned_ms": 10.0,
        "latency/speedup": 3.0,
        "calibration/tokens": 512,
    }
    assert {key: cell[key] for key in logged} == logged
    summary = {}
    for entry in records:
        if entry.WhichOneof("record_type") == "summary":
            summary |= items(entry.summary.update)
    assert summary["commit"] == "c0ffee" and summary["device"] == "a CPU"


def test_a_sweep_leaves_its_table(tmp_path):
    """One more run in the sweep's group, with a row a cell; what was never tried has no row."""
    cells = [RESULT, replace(RESULT, method="kcm", variant={}, score=60.5, latency=None)]
    track_sweep(cells, "sweep-1", "offline", str(tmp_path))
    records = finished_run(tmp_path)
    run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (run.run_group, run.job_type, run.display_name) == ("sweep-1", "table", "sweep-1/table")
    (artifact,) = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    assert artifact.type == "run_table" and artifact.name.endswith("cells")
    (path,) = [items(r.history.item)["cells/path"] for r in records if r.WhichOneof("record_type") == "history"]
    (file,) = tmp_path.glob(f"wandb/offline-run-*/files/{path}")
    table = json.loads(file.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["method"], row["score"], row["speedup"]) for row in rows] == [
        ("kprune+mu=2", 80.25, 3.0),
        ("kcm", 60.5, None),
    ]


@pytest.mark.parametrize("from_outside", [True, False])
def test_disabled_writes_nothing(tmp_path, monkeypatch, from_outside):
    monkeypatch.chdir(tmp_path)
    if from_outside:
        monkeypatch.setenv("WANDB_MODE", "disabled")
    track(RESULT, "sweep-1", "offline" if from_outside else "disabled")
    assert not list(tmp_path.iterdir())


def test_no_latency_is_no_trouble(tmp_path):
    track(replace(RESULT, latency=None), "single", "offline", str(tmp_path))
    names = [name for record in finished_run(tmp_path) for name in items(record.history.item)]
    assert "score" in names and not any(name.startswith("latency") for name in names)


def test_a_refusal_is_one_line(tmp_path, monkeypatch):
    def refuse(**_):
        raise wandb.errors.UsageError("no API key\nconfigured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="no API key configured.*WANDB_MODE=offline"):
        track(RESULT, "single", "online", str(tmp_path))


def test_loss_curves_are_rows():
    curves = {"width_stage": [(10, 2.5), (20, 1.5)], "depth_stage": [(5, 0.5)]}
    rows = losses(replace(RESULT, details={"losses": curves}))
    assert rows[1] == {"loss/width_stage": 1.5, "loss/width_stage_step": 20} and len(rows) == 3
    assert losses(RESULT) == []
