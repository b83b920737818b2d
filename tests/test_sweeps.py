"""Many cells: grids that go on after interruptions, failures that are named, launchers that run cells elsewhere."""

import importlib.util
import json
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, run_python
from records import record
from world import bad, environment, grid, run

from analysis.records import load
from experiments.store import results
from experiments.sweep.__main__ import main


def launch(command, world):
    return run_python(command[1:], environment(world))


def begun(world, outputs):
    """A grid of four cells, in a session of its own, once the first is finished."""
    process = subprocess.Popen(
        grid(world, outputs, "--reductions", "0.4,0.5,0.6,0.7"),
        cwd=ROOT,
        env=environment(world),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test in the background ignores it
    )
    while process.poll() is None and not finished(outputs):
        time.sleep(0.01)
    return process


def finished(outputs):
    return sorted(path.parts[-3] for path in outputs.rglob("result.json"))


def test_a_grid_says_what_it_will_do_does_it_once_and_names_what_failed(world, tmp_path):
    other = tmp_path / "custom/minilm/kprune+tokens=200/0.7/seed0/result.json"
    other.parent.mkdir(parents=True)
    results.write_json(other, record())
    command = grid(world, tmp_path, "--reductions", "0.5,0.7,0.6")
    first = launch(command, world)
    assert "accuracy: 3 cells to run, 0 finished before" in first.stdout and "expected: " in first.stdout
    assert "2 cells run, 0 finished before, 0 out of reach, 1 failed" in first.stdout
    bad(first, "custom/minilm/kprune+tokens=200/0.7/seed0", "another configuration")
    other.unlink()
    assert first.stdout.count("custom: dense accuracy") == 1  # one process, which shares the dense model
    assert finished(tmp_path) == ["0.5", "0.6"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    again = launch(grid(world, tmp_path, "--reductions", "0.5 0.6 0.7", "--dry-run"), world)
    assert again.returncode == 0 and "1 cells to run, 2 finished before" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == before


@pytest.mark.parametrize(
    "more, words",
    [
        (["--tasks", "nonsense"], ["nonsense", "mrpc"]),
        (["--reductions", "much"], ["much", "numbers"]),
        (["nonsense=1"], ["nonsense"]),
        (["--reductions", "0.5,1.5"], ["flops_reduction=1.5", "outside (0, 1)"]),
        (["--seeds", "-1"], ["seed=-1", "whole number"]),
        (["flops_reduction=0.6"], ["flops_reduction=0.6", "--reductions"]),
        (["seed=1"], ["seed=1", "--seeds"]),
        (["outputs=elsewhere"], ["outputs=elsewhere", "--outputs"]),
        (["method=kwon"], ["method=kwon", "--methods"]),
        (["model=bert_base"], ["model=bert_base", "--models"]),
        (["evaluate=some/folder"], ["evaluate=some/folder would be ignored"]),
        (["--reductions", ","], ["--reductions ',' names none"]),
        (["--reductions", "0.5", "++sparsity=0.5"], ["--reductions 0.5", "sparsity=0.5"]),
        (["task=mrpc"], ["task=mrpc", "--tasks"]),
        (["budget=latency"], ["asks for no speed-up", "speedup=3"]),
        (["--reductions", "0.5", "budget=latency", "speedup=3"], ["--reductions 0.5", "budget=latency"]),
        (["calibration.tokens=abc"], ["calibration.tokens=abc", "number above 0"]),
        (["calibration.tokens=${nothing}"], ["calibration.tokens", "nothing"]),
        (["method=null"], ["method=null", "--methods"]),
    ],
)
def test_a_wrong_grid_is_one_line(world, tmp_path, monkeypatch, capsys, more, words):
    monkeypatch.setattr(sys, "argv", ["grid", *grid(world, tmp_path, *more)[3:]])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(word in line for word in words)


@pytest.mark.slow
def test_killed_at_any_point_a_grid_is_finished_by_the_same_command(world, tmp_path):
    """Killed with all its processes as the first, second and third cell appear; one record is truncated, too."""
    command = grid(world, tmp_path, "--reductions", "0.4,0.5,0.6,0.7")
    for seen in (1, 2, 3):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(world),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and len(finished(tmp_path)) < seen:
            time.sleep(0.01)
        subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=False)
        process.wait()
    before = {path: path.read_bytes() for path in tmp_path.rglob("result.json")}
    damaged, *whole = sorted(before)
    damaged.write_bytes(before[damaged][:100])
    done = launch(command, world)
    assert done.returncode == 0 and f"{damaged} is damaged" in done.stdout, done.stderr
    assert finished(tmp_path) == ["0.4", "0.5", "0.6", "0.7"] and len(load(tmp_path)) == 4
    assert all(path.read_bytes() == before[path] for path in whole)
    assert json.loads(damaged.read_text())["score"] == json.loads(before[damaged])["score"]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"result.json", "predictions.npz"}


@pytest.mark.slow
def test_a_killed_grids_process_does_not_finish_its_cell(world, tmp_path):
    process = begun(world, tmp_path)
    process.kill()
    process.wait()
    before = finished(tmp_path)
    deadline = time.monotonic() + 30
    while subprocess.run(["pgrep", "--session", str(process.pid)], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline, "the process of the cells is still there"
        time.sleep(0.1)
    assert finished(tmp_path) == before


@pytest.mark.slow
def test_stopped_by_hand_a_grid_says_how_to_go_on(world, tmp_path):
    process = begun(world, tmp_path)
    subprocess.run(["kill", f"-{signal.SIGINT}", "--", f"-{process.pid}"], check=True)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors


@pytest.mark.slow
def test_two_sweeps_of_the_same_cells_do_each_once(world, tmp_path):
    command = grid(world, tmp_path, "--reductions", "0.5,0.6")
    both = [
        subprocess.Popen(command, cwd=ROOT, env=environment(world), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("results: ") for text in said) == 2  # the other one found each cell finished
    assert finished(tmp_path) == ["0.5", "0.6"]


LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}


def installed(extra):
    return importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(
        f"hydra_plugins.hydra_{extra}_launcher"
    )


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_cells_in_other_processes_fail_by_name_too(world, tmp_path, launcher):
    if not installed(LAUNCHERS[launcher]):
        pytest.skip(f"hydra-{LAUNCHERS[launcher]}-launcher is not installed: pip install -e '.[{LAUNCHERS[launcher]}]'")
    done = run(world, "flops_reduction=1.5,0.5", f"outputs={tmp_path}", f"+launcher={launcher}", sweep=True)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "flops_reduction=1.5" in line and "outside (0, 1)" in line
    assert finished(tmp_path) == ["0.5"]


def test_a_launcher_that_is_not_installed_is_one_line(world, tmp_path):
    if installed("ray"):
        pytest.skip("hydra-ray-launcher is installed")
    done = run(world, "flops_reduction=0.5,0.6", f"outputs={tmp_path}", "+launcher=ray", sweep=True)
    bad(done, "launcher", "pip install -e '.[ray]'")
