"""Run every check that needs a GPU, in eight minutes: `make gpu-check`, or `python -m experiments.speed.gpu_check --help`.

The tests that need a GPU, then pruning costs of BERT-base at some 98,000 tokens, of the dearer methods in reduced precision, too, then
a minute of the table of latencies. Every step is a process of its own and writes its files when it ends, so that whatever stops this
leaves what was measured before. The steps themselves are in `steps.csv`.
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
"""The cheapest first: on an H100, starting a process took longer than pruning by the fast modes."""
REDUCED = ("kprune_plus", "kprune")
"""Those that are measured in reduced precision, too."""
SECONDS = 470.0
TOKENS = 98_000
COLUMNS = ("step", "seconds", "exit_code", "device")
OUT_OF_TIME = 124


@dataclass(frozen=True)
class Step:
    """A step: its name, and the arguments of python that run it."""

    name: str
    arguments: list[str]


def steps(output: Path, device: str, small: bool) -> Iterator[Step]:
    """Give the steps, in order; `small` ones on a tiny model, to try whether all of them work."""
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
    """Tell whether a device multiplies faster in reduced precision."""
    try:
        check_reduced(device, torch.float32)
    except UserError:
        return False
    return True


def run_limited(command: list[str], seconds: float) -> int:
    """Run a command, and end it with all that it started if it takes longer; return its exit code, or `OUT_OF_TIME`."""
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
    """Run the steps until the time is over; the exit code is 1 if one failed or was cut off, else 0.

    Raises:
        UserError: the device is not there, or the folder can't be written to.
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
        code = code or min(exit_code, 1)
    print(f"results: {output}")
    return code


@command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=reachable, default=Path("outputs/gpu_check"), help="folder")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ..., or cpu to try it")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try whether all of it works")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all of it (default: {SECONDS:g})")
    options = parser.parse_args()
    return run(options.output.resolve(), options.device, options.small, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
