"""Measure whether zeros among the weights make a forward pass faster on a CPU: `python -m experiments.speed.zeros`.

In an encoder of random weights, half of the weights in each row of its layers are set to zero: any half, or two of each four weights.
The dense and the masked models alternate in one run. The CPU time of one thread is measured, which does not grow if other processes
keep the machine busy.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from baselines.wanda import least_in_rows
from experiments.config.kinds import check, whole
from experiments.speed.cpu_time import cpu_times
from experiments.speed.shapes import SHAPES, random_model
from experiments.store import measurements
from kprune.budgets.latency.timing import device_name, random_batch
from kprune.errors import command
from kprune.files import reachable
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.surgery import input_weight
from kprune.target import Target

COLUMNS = (
    "shape",
    "target",
    "batch_size",
    "sequence_length",
    "dense_cpu_ms",
    "masked_cpu_ms",
    "ratio",
    "ratio_low",
    "ratio_high",
    "repeats",
    "device",
    "threads",
    "torch",
)
"""Milliseconds are medians; `ratio` is dense over masked; `ratio_low` and `ratio_high` are the smallest and largest of a single pair."""
KEY = ("shape", "target", "batch_size", "sequence_length", "device")
TARGETS = ("s0.5", "2:4")


def zeroed(model: nn.Module, target: Target) -> nn.Module:
    """Return a copy of a model with zeros at the smallest weights of its layers; the choice of weights does not change the time."""
    view = view_of(frozen_copy(model))
    for block in view.blocks:
        for module in block.linears:
            weight = input_weight(module)
            weight.masked_fill_(least_in_rows(weight.abs(), target), 0)
    return view.model


@torch.inference_mode()
def measure(shape: str, batch_size: int, sequence_length: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each of `TARGETS`, with the times of the dense and the masked model."""
    dense = random_model(SHAPES[shape])
    models = [dense, *(zeroed(dense, Target.parse(target)) for target in TARGETS)]
    batch = random_batch(dense, batch_size, sequence_length)
    whole_times, *others = cpu_times(models, batch, repeats)
    rows = []
    for target, of in zip(TARGETS, others, strict=True):
        ratios = [a / b for a, b in zip(whole_times, of, strict=True)]
        medians = statistics.median(whole_times), statistics.median(of)
        machine = device_name(torch.device("cpu")), torch.get_num_threads(), torch.__version__
        measured = *medians, medians[0] / medians[1], min(ratios), max(ratios), repeats
        values = shape, target, batch_size, sequence_length, *measured, *machine
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=reachable, default=Path("results/zeros_time.csv"))
    options = parser.parse_args()
    for name, most in (("batch", None), ("length", 512), ("repeats", None)):
        check(f"--{name}", getattr(options, name), whole(1, "8", most))
    measurements.make_room(options.output, COLUMNS)
    torch.set_num_threads(1)
    rows = measure(options.shape, options.batch, options.length, options.repeats)
    measurements.put(options.output, COLUMNS, KEY, rows)
    print(f"results: {options.output}")


if __name__ == "__main__":
    sys.exit(main())
