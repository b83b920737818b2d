"""One's own files on the command line: odd paths, odd files, and a run that is interrupted."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from commands import ROOT, run_python
from world import bad, environment, overrides, run

from experiments.config.composing import explained, quoted
from kprune.errors import UserError

ODD = "odd, [x] {y} #z ~ =é'q (1)"


def test_odd_paths_and_files_from_end_to_end(world, tmp_path):
    """UTF-16, semicolons, blanks in the header, and a folder whose name has whatever ends a value in Hydra's grammar."""
    folder = tmp_path / ODD
    shutil.copytree(world / "checkpoint", folder / "checkpoint")
    rows = (world / "data.csv").read_text().replace(",", " ; ").splitlines()
    (folder / "data.csv").write_text("\r\n".join(rows), encoding="utf-16")
    given = [
        option for option in overrides(world) if option.split("=")[0] not in ("task.train_file", "model.checkpoint")
    ]
    given += [f"task.train_file={folder / 'data.csv'}", f"model.checkpoint={folder / 'checkpoint'}", "method=magnitude"]
    done = run_python(["run.py", *given, f"outputs={folder}", "flops_reduction=0.5"], environment(world))
    assert done.returncode == 0, done.stderr
    (model,) = folder.glob("custom/*/*/*/*/model")
    again = run_python(["run.py", f"evaluate={model}"], environment(world))
    assert again.returncode == 0, again.stderr
    assert f"custom accuracy {done.stdout.split(' pruned;')[0].split()[-1]}" in again.stdout


@pytest.mark.parametrize(
    "path",
    [
        "a,b",
        "a[1]",
        "{x}",
        "#x",
        "a b",
        "it's",
        "back\\slash",
        "end\\",
        "b\\'c",
        "a=b",
        "$x",
        'q"q',
        "é",
        "-x",
        "plain/a-b.csv",
    ],
)
def test_a_path_is_read_as_it_is(path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (read,) = OverridesParser.create().parse_overrides([quoted(f"task.train_file={path}")])
    assert read.value() == path
    assert quoted(quoted(f"outputs={path}")) == quoted(f"outputs={path}")


def test_a_home_folder_and_the_paths_of_a_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of")
    assert quoted("evaluate=~/a b") == "evaluate='/home/of/a b'"
    assert quoted("outputs=~/a") == "outputs=/home/of/a"
    assert quoted("model.checkpoint=~/a b,c", sweep=True) == "model.checkpoint='/home/of/a b',c"
    (tmp_path / "a,b").mkdir()
    assert quoted(f"model.checkpoint={tmp_path}/a,b", sweep=True) == f"model.checkpoint='{tmp_path}/a,b'"
    for argument in ("method=kprune,kwon", "task.text=[a,b]", "outputs=${oc.env:HOME}", "model.checkpoint=null", "-m"):
        assert quoted(argument) == argument


def test_a_path_that_can_not_be_reached_is_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("~nosuchuser/a.csv", tmp_path / "loop/a.csv", 256 * "n"):
        with pytest.raises(UserError, match="can't be reached .*: check its spelling and permissions"):
            quoted(f"task.train_file={path}")
    many = ",".join(f"checkpoint-{number}" for number in range(30))  # longer than a name may be
    assert quoted(f"model.checkpoint={many}", sweep=True) == f"model.checkpoint={many}"


@pytest.mark.parametrize(
    "option, words",
    [
        ("task.label=größe", "'task.label=\"größe\"'"),
        ("task.text=[a", "put the value in quotes"),
        ("task.evaluation_file=a.csv", "one of task=custom"),
        ('flops_reduction="0.8"', 'flops_reduction="0.8" is not a finite number'),
    ],
)
def test_what_is_not_read_says_how_to_write_it(option, words, capsys):
    from experiments.config.cell import configured

    with pytest.raises(UserError) as error:
        configured(["task=docstrings", option])
    assert words in str(error.value) and "\n" not in explained(error.value)


def test_an_interrupted_run_is_one_line(world, tmp_path):
    command = [sys.executable, "run.py", *overrides(world), f"outputs={tmp_path}", "method=kprune_plus"]
    command.append("method.refit_epochs=100000")  # goes on until it is interrupted
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(world) | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
        # What runs in a shell's background ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stdout:
        if "held out" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    try:
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert told.count("\n") == 1 and told.startswith("interrupted")
    assert not list(tmp_path.rglob("result.json"))


def test_an_option_beside_evaluate_is_used_or_refused(world):
    bad(run(world, f"evaluate={world / 'checkpoint'}"), "calibration.tokens=200", "would be ignored")
