"""Divergences that settings are chosen by."""

import pytest
from world import overrides

from experiments.config.cell import configured
from experiments.inputs.calibration import draw_calibration
from experiments.inputs.checkpoints import load_tokenizer
from experiments.scoring import held_out
from experiments.speed import measurements


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
    task, *rest = (entry for entry in overrides(world) if not entry.startswith("tracking"))
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
    values = [float(row["held_out_divergence"]) for row in rows]
    assert values[2] > 0 and values[2] != pytest.approx(values[0])
    monkeypatch.setattr(held_out, "find_checkpoint", lambda *_: pytest.fail("a checkpoint was made"))
    for wrong, words in (
        (["kprune_plus:nonsense=1", *arguments], "nonsense"),
        (["kwon", *arguments, "--flops-reduction", "2"], "outside (0, 1)"),
        (["kwon", *arguments, "--output", "/proc/nope/held_out.csv"], "another --output"),
        (["kwon", *arguments, "seed=abc"], "seed=abc"),
        (["kwon", *arguments, "calibration.file=some.json"], "calibration.file"),
        (["kwon", *arguments, "precision=reduced"], "precision goes with a method"),
        (["magnitude:precision=reduced", *arguments], "method magnitude does not run the model"),
    ):
        monkeypatch.setattr("sys.argv", ["held_out", "some", *wrong])
        assert held_out.main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
