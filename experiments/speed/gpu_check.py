"""Run every check that needs a GPU, in eight minutes: `make gpu-check`, or `python -m experiments.speed.gpu_check --help`.

First the tests that need a GPU are run. Then the pruning of BERT-base on about 98,000 tokens is timed, for the expensive methods in
reduced precision, too. Then the table of latencies is measured for a minute. Each step is a process and writes its files when it ends,
so that an interruption leaves the files of the steps before. The file `steps.csv` has the time and the exit code of each step.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.inputs.subject import pick_device
from experiments.store import measurements
from kprune.errors import UserError, command
from kprune.files import reachable
from kprune.precision import check_reduced

ROOT = Path(__file__).parents[2]
METHODS = ("kprune_plus_fast", "kprune_fast", "kprune_plus", "kprune")
"""Methods to time, the cheapest first: on an H100, starting a process took longer than pruning by the fast presets."""
REDUCED = ("kprune_plus", "kprune")
"""Methods that are timed in reduced precision, too."""
SECONDS = 470.0
TOKENS = 98_000
COLUMNS = ("step", "seconds", "exit_code", "device")
OUT_OF_TIME = 124


@dataclass(frozen=True)
class Step:
    """A step of the check: its name, and the arguments with which python runs it."""

    name: str
    arguments: list[str]


def steps(output: Path, device: str, small: bool) -> Iterator[Step]:
    """Yield the steps in order; with `small`, steps on a tiny model that show in a short time whether all of them work."""
    coarser = reduced_is_faster(pick_device(device))
    tests = ["-m", "pytest", "-q", "tests/test_gpu.py", "--dist=load", f"--junitxml={output / 'tests.xml'}"]
    yield Step("tests", [*tests, *(["--collect-only"] if small else [])])
    shape, tokens = ("tiny", "300") if small else ("bert_base", str(TOKENS))
    for method in METHODS:
        rows = f"{method},{method}:precision=reduced" if coarser and method in REDUCED else method
        given = ["--shapes", shape, "--tokens", tokens, "--methods", rows, "--device", device]
        yield Step(method, ["-m", "experiments.speed.bench", *given, "--output", str(output / f"{method}.csv")])
    few = (
        ["--batches", "1", "--lengths", "8", "--runtimes", "eager"]
        if small
        else ["--dtype", "bfloat16", "--grain", "16"]
    )
    given = ["--shape", shape, "--device", device, "--minutes", "1", *few]
    yield Step("latency", ["-m", "experiments.speed.latency_table", *given, "--output", str(output / "latency.csv")])


def reduced_is_faster(device: torch.device) -> bool:
    """Tell whether a device multiplies matrices faster in reduced precision."""
    try:
        check_reduced(device, torch.float32)
    except UserError:
        return False
    return True


def run_limited(command: list[str], seconds: float) -> int:
    """Run a command for at most `seconds` and return its exit code; `OUT_OF_TIME` if it took longer.

    A command that takes longer is killed together with all processes that it started.
    """
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return OUT_OF_TIME
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(output: Path, device: str, small: bool, seconds: float) -> int:
    """Run the steps for at most `seconds`; return 0 if all steps succeeded in this time, else 1.

    Raises:
        UserError: the device does not exist, or the folder can't be written to.
    """
    pick_device(device)
    measurements.make_room(output / "steps.csv", COLUMNS)
    end, code = time.perf_counter() + seconds, 0
    for step in steps(output, device, small):
        begun = time.perf_counter()
        exit_code = run_limited([sys.executable, *step.arguments], max(end - begun, 0))
        row = {"step": step.name, "seconds": time.perf_counter() - begun, "exit_code": exit_code, "device": device}
        measurements.put(output / "steps.csv", COLUMNS, ("step",), [row])
        print(f"{step.name}: exit code {exit_code} after {row['seconds']:.0f} s", flush=True)
        code = code or int(exit_code != 0)
    print(f"results: {output}")
    return code


@command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=reachable, default=Path("outputs/gpu_check"), help="folder")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ..., or cpu to try it")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try whether all steps work")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"time limit of all steps together (default: {SECONDS:g})"
    )
    options = parser.parse_args()
    return run(options.output.resolve(), options.device, options.small, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
