"""Pruning cost and peak memory by method, tokens and layers, in one run on one machine: `python -m experiments.speed.bench`.

The unit is one float32 dense forward pass over the same tokens, sorted by length, without hooks, measured in the same
process before and after. Every method runs in a process of its own; its peak memory is what the process reached (of the
GPU's, with `--device cuda`) beyond what it held with model and data loaded. Weights, tokens and labels are random, lengths
are like MRPC's; 80 % of FLOPs are removed, or what a method reaches. `whole_model` is the authors' way
(`experiments/speed/bench/reference.py`), `floor` what the exact method can't do without: L + 3 forwards, Gram matrices and
solves. K-prune runs with one λ: each of several costs as much again. `kprune_plus:precision=reduced` is a method with its passes in
reduced precision, `kprune_plus:flops_reduction=0.5_0.6_0.7` one that prunes to several reductions of one calibration set, what they
share measured once. The rows of one shape and token count are measured one
after the other and written together; rows of others that are in the file stay.
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
"""`units` are dense forwards, by the one timed in the same process; `stages` are seconds, of several reductions those of the last."""
KEY = ("shape", "tokens", "method", "device")
BESIDE_METHODS = ("floor", "whole_model")


def default_methods() -> list[str]:
    """Return every method that removes FLOPs of a classifier in one go and costs something, and the two that they are compared with."""
    in_one_go = {
        name: find_method(name) for name, entry in METHODS.items() if entry.group not in ("floor", "retrained")
    }
    able = [
        name for name, method in in_one_go.items() if "classification" in method.heads and "flops" in method.budgets
    ]
    return [*BESIDE_METHODS, *able]


def measured(shape: str, tokens: int, method: str, threads: int | None, device: str = "cpu") -> dict[str, Any]:
    """Return what a process of its own reports.

    Raises:
        UserError: it fails.
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
    """Check what would fail after other rows have been measured.

    Raises:
        UserError: a shape, method, number of tokens or of threads is wrong, or the file can't be written.
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
    """Measure everything; the file is written after every row."""
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
    """Put a row in the place of the one that the file has of the same shape, token count, method and device."""
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
