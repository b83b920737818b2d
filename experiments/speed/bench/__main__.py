"""Measure the cost and the peak memory of pruning, by shape, number of tokens and method: `python -m experiments.speed.bench`.

The unit of cost is one dense forward pass in float32 over the same tokens, in batches sorted by length and without hooks, measured in
the same process before and after the pruning. Each method runs in a separate process. Its peak memory is the peak of the process (with
`--device cuda`, of torch on the GPU) minus the memory that is in use once model and data are loaded. Weights, tokens and labels are
random, and lengths are distributed as in MRPC. The methods remove 80 % of FLOPs, or their reach if it is less.

`whole_model` does the passes of the authors' code (`experiments/speed/bench/reference.py`). `floor` is the least cost of the exact
method: L + 3 forward passes, Gram matrices and solves. K-prune runs with one λ; each further λ adds the same cost again.
`kprune_plus:precision=reduced` computes the passes of a method in reduced precision. `kprune_plus:flops_reduction=0.5_0.6_0.7` prunes to
several reductions on one calibration set, and measurements that they share are done once. Each row is written when it has been measured
and replaces the row of the same shape, number of tokens, method and device; other rows in the file stay.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from baselines.registry import METHODS
from experiments.config.kinds import THREADS, check, or_null, whole, whole_numbers
from experiments.inputs.subject import pick_device
from experiments.speed.bench.child import Measured
from experiments.speed.shapes import SHAPES
from experiments.store import measurements
from experiments.store.provenance import commit
from kprune.budgets.latency.timing import device_name
from kprune.errors import UserError, command
from kprune.files import reachable
from kprune.methods.registry import find_method

COLUMNS = (
    "shape",
    "blocks",
    "method",
    "flops_reduction",
    "examples",
    "tokens",
    "padded_tokens_sorted",
    "padded_tokens_drawn",
    "forward_seconds",
    "seconds",
    "units",
    "peak_mb",
    "stages",
    "device",
    "threads",
    "torch",
    "commit",
)
"""`units` is the number of dense forward passes that take the same time, by the pass that is timed in the same process; `stages` are
seconds, for several reductions those of the last one."""
KEY = ("shape", "tokens", "method", "device")
BESIDE_METHODS = ("floor", "whole_model")


def default_methods() -> list[str]:
    """Return the names in `BESIDE_METHODS` and of all methods that remove FLOPs of a classifier.

    Methods of the groups "floor" and "retrained" are left out.
    """
    in_one_go = {
        name: find_method(name) for name, entry in METHODS.items() if entry.group not in ("floor", "retrained")
    }
    able = [
        name for name, method in in_one_go.items() if "classification" in method.heads and "flops" in method.budgets
    ]
    return [*BESIDE_METHODS, *able]


def measured(shape: str, tokens: int, method: str, threads: int | None, device: str = "cpu") -> dict[str, Any]:
    """Measure a method in a separate process and return a row of the table, without machine and commit.

    Raises:
        UserError: the process fails.
    """
    command = [sys.executable, "-m", "experiments.speed.bench.child", shape, str(tokens), method, "--device", device]
    command += ["--threads", str(threads)] if threads else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{method} on {shape} with {tokens} tokens failed: {last}")
    return {"shape": shape, "method": method} | json.loads(done.stdout.splitlines()[-1])


def line(r: dict[str, Any]) -> str:
    memory = f"{r['peak_mb']:8.0f} MB" if "peak_mb" in r else ""
    return f"{r['shape']:12}{r['tokens']:>8} tokens {r['method']:28}{r['units']:8.1f} forwards{memory}"


def check_options(options: argparse.Namespace) -> None:
    """Check all options and the file before the first measurement.

    Raises:
        UserError: a shape, method, device, number of tokens or number of threads is wrong, or the file can't be written.
    """
    if unknown := [shape for shape in options.shapes if shape not in SHAPES]:
        raise UserError(f"shape {unknown[0]} is unknown: use {', '.join(SHAPES)}")
    for tokens in options.tokens:
        check("--tokens", tokens, whole(1, "1000"))
    check("--threads", options.threads, or_null(THREADS))
    device = pick_device(options.device)
    for method in options.methods:
        if method not in BESIDE_METHODS:
            Measured.of(method).check_device(device)
    measurements.make_room(options.output, COLUMNS)


def run(options: argparse.Namespace) -> None:
    """Measure each shape, number of tokens and method, and write each row when it has been measured.

    Raises:
        UserError: an option is wrong (raised before the first measurement), or a process fails.
    """
    check_options(options)
    machine = {
        "device": device_name(pick_device(options.device)),
        "torch": torch.__version__,
        "commit": commit(),
    }
    runs = list(itertools.product(options.shapes, options.tokens, options.methods))
    for shape, tokens, method in tqdm(runs, desc="bench", unit="run", disable=None):
        row = measured(shape, tokens, method, options.threads, options.device) | machine
        write(options.output, row)
        print(line(row), flush=True)
    print(f"{machine['device']}, {row['threads']} threads; results: {options.output}")


def write(file: Path, row: dict[str, Any]) -> None:
    """Write a row to the file; it replaces the row of the same shape, number of tokens, method and device."""
    stages = " ".join(f"{stage}={seconds:g}" for stage, seconds in row.get("stages", {}).items())
    measurements.put(file, COLUMNS, KEY, [row | {"stages": stages}])


@command
def main() -> None:
    words = lambda text: text.split(",")  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=reachable, default=Path("results/bench.csv"))
    parser.add_argument("--shapes", type=words, default=["minilm", "bert_base"], help=", ".join(SHAPES))
    parser.add_argument("--tokens", type=whole_numbers, default=[1000, 2000, 4000])
    parser.add_argument(
        "--methods", type=words, default=default_methods(), help="kprune:measure_every=2 changes a setting"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda, cuda:1, ...; a GPU's rows want an --output of their own"
    )
    options = parser.parse_args()
    run(options)


if __name__ == "__main__":
    sys.exit(main())
