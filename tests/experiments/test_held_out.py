"""Divergences that settings are chosen by."""

import pandas as pd
import pytest
from world import overrides

from analysis.tables.beside_cells import held_out as of_held_out
from experiments.config.cell import configured
from experiments.inputs.calibration import draw_calibration
from experiments.inputs.checkpoints import load_tokenizer
from experiments.scoring import held_out
from experiments.store import measurements


def test_nothing_that_was_drawn_is_measured_on(world):
    config = configured(overrides(world))
    task, tokenizer = config.task.build(), load_tokenizer(world / "checkpoint")
    calibration = draw_calibration(task, tokenizer, config.calibration, 0, labels=False)
    fresh = held_out.unseen(task, tokenizer, calibration)
    drawn, unseen = ({tuple(e["input_ids"]) for e in some.examples} for some in (calibration, fresh))
    assert drawn and unseen and not drawn & unseen
    assert len(drawn | unseen) == len({tuple(e["input_ids"]) for e in task.training(tokenizer)})


def test_rows_are_added_one_by_one(world, tmp_path, monkeypatch, capsys):
    file = tmp_path / "held_out.csv"
    task, *rest = (entry for entry in overrides(world) if entry.startswith(("task", "model", "calibration")))
    arguments = [
        "--tasks",
        task.removeprefix("task="),
        "--flops-reduction",
        "0.6",
        "--output",
        str(file),
        "--set",
        *rest,
    ]
    for methods in (["kprune_plus", "kprune_plus:floor=1e6"], ["kwon"], ["kprune_plus"]):
        monkeypatch.setattr("sys.argv", ["held_out", "some", *methods, *arguments])
        assert held_out.main() == 0
    rows = measurements.read(file, held_out.COLUMNS)
    assert [row["settings"] for row in rows] == ["kprune_plus:floor=1e6", "kwon", "kprune_plus"]
    assert {(row["model"], row["seed"]) for row in rows} == {("minilm", "0")}
    monkeypatch.setattr("sys.argv", ["held_out", "some", "kprune_plus", *arguments, "seed=1"])
    assert held_out.main() == 0
    assert [row["seed"] for row in measurements.read(file, held_out.COLUMNS)] == ["0", "0", "0", "1"]
    table = of_held_out(pd.read_csv(file), "some")
    assert [name.partition(", ")[2] for name in table.columns[1:]] == [
        f"200 tokens, MiniLM-L6, seed {s}" for s in (0, 1)
    ]
    values = [float(row["held_out_divergence"]) for row in rows]
    assert values[2] > 0 and values[2] != pytest.approx(values[0])
    monkeypatch.setattr(held_out, "find_checkpoint", lambda *_: pytest.fail("a checkpoint was made"))
    for wrong, words in (
        (["kprune_plus:nonsense=1", *arguments], "nonsense"),
        (["kwon", *arguments, "--flops-reduction", "2"], "outside (0, 1)"),
        (["kwon", *arguments, "--output", "/proc/nope/held_out.csv"], "another --output"),
        (["kwon", *arguments, "seed=abc"], "seed=abc"),
        (["kwon", *arguments, "calibration.file=some.json"], "calibration.file"),
        (["kwon", *arguments, "--tasks", "custom,nonsense"], "task=nonsense"),
        *(
            (["kwon", *arguments, ignored], f"--set {ignored} would be ignored")
            for ignored in (
                "precision=reduced",
                "grain=16",
                "uniform=true",
                "flops_reduction=0.5",
                "method.mu=2",
                "task=mrpc",
            )
        ),
        (["magnitude:precision=reduced", *arguments], "method magnitude does not run the model"),
    ):
        monkeypatch.setattr("sys.argv", ["held_out", "some", *wrong])
        assert held_out.main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_rows_from_before_they_told_model_and_seed_are_the_usual_ones(tmp_path):
    file, old = tmp_path / "held_out.csv", [name for name in held_out.COLUMNS if name not in held_out.UNSAID]
    row = dict(zip(held_out.KEY, ("first", "mrpc", 0.8, 5000, "kwon", "minilm", 0), strict=True)) | {
        "held_out_divergence": 1.0
    }
    measurements.write(file, old, [{name: row[name] for name in old}])
    for changes in ({"seed": 1}, {"held_out_divergence": 2.0}):
        measurements.put(file, held_out.COLUMNS, held_out.KEY, [row | changes], held_out.UNSAID)
    rows = measurements.read(file, held_out.COLUMNS)
    assert [(row["seed"], row["held_out_divergence"]) for row in rows] == [("1", "1"), ("0", "2")]
