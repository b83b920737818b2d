"""Measuring one method on one model and calibration set in a separate process, so that the peak memory is only that of the method."""

import argparse
import json
import math
import os
import resource
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.config.methods import method_and_precision
from experiments.inputs.subject import pick_device
from experiments.speed.bench.reference import WholeModel
from experiments.speed.shapes import SHAPES, random_model
from experiments.store.variant import value_text
from kprune.budgets import FlopsBudget
from kprune.budgets.latency.timing import now
from kprune.contract import Job, Method, PruningData
from kprune.data import CalibrationSet
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.inputs import model_inputs, on_device
from kprune.objectives import Classification
from kprune.precision import Precision, check_reduced
from kprune.solve.least_squares import LeastSquares
from kprune.streams import calibration_states

REDUCTION = 0.8
BATCH_SIZE = 32
MEAN_LENGTH, DEVIATION, SHORTEST, LONGEST = 53.0, 18.0, 12, 128
"""Lengths of MRPC's sentence pairs, in tokens."""
FORWARDS = 3


@dataclass(frozen=True)
class Measured:
    """A method, the precision of its passes, and the FLOPs reductions that it prunes to in turn on one calibration set."""

    method: Method
    precision: Precision
    reductions: list[float]

    @classmethod
    def of(cls, text: str) -> "Measured":
        """Read a text such as `kprune:measure_every=2:precision=reduced:flops_reduction=0.5_0.6_0.7`.

        Raises:
            UserError: the method or a setting is unknown, a value is out of range, or the method does not remove FLOPs.
        """
        name, *settings = text.split(":")
        said = [setting for setting in settings if setting.startswith("flops_reduction=")]
        method, precision = method_and_precision(":".join([name, *(s for s in settings if s not in said)]))
        method.check_measure("flops")
        shares = said[-1].partition("=")[2] if said else value_text(REDUCTION)
        try:
            reductions = [float(reduction) for reduction in shares.split("_")]
        except ValueError as error:
            raise UserError(f"{text}: give shares of FLOPs as flops_reduction=0.5_0.6_0.7") from error
        for reduction in reductions:
            FlopsBudget(reduction, 1.0)
        return cls(method, precision, reductions)

    def check_device(self, device: torch.device) -> None:
        """Check that a device supports the precision.

        Raises:
            UserError: the precision is "reduced", and the device has no faster one than float32.
        """
        if self.precision == "reduced":
            check_reduced(device, torch.float32)


def random_calibration(tokens: int, largest: int) -> CalibrationSet:
    """Return a calibration set of random tokens, lengths and labels, which is the same in every call.

    Args:
        tokens: approximate total number of tokens.
        largest: number of tokens in the vocabulary.
    """
    generator = np.random.default_rng(0)
    lengths = generator.normal(MEAN_LENGTH, DEVIATION, round(tokens / MEAN_LENGTH)).clip(SHORTEST, LONGEST).astype(int)
    rows = [
        {"input_ids": generator.integers(5, largest, n).tolist(), "label": int(generator.integers(2))} for n in lengths
    ]
    return CalibrationSet(rows, BATCH_SIZE, 0)


def forward_seconds(model: nn.Module, batches: list[dict[str, torch.Tensor]]) -> list[float]:
    """Return the seconds of each of `FORWARDS` dense forward passes over all batches, without hooks or gradients."""
    batches, seconds = [model_inputs(on_device(batch, model.device)) for batch in batches], []
    with torch.inference_mode():
        for _ in range(FORWARDS):
            start = now(model.device)
            for batch in batches:
                model(**batch)
            seconds.append(now(model.device) - start)
    return seconds


def solve_seconds(model: nn.Module, calibration: CalibrationSet) -> float:
    """Return the seconds of the Gram matrices over all tokens and the solves of all blocks, each with the kept share of its units."""
    seconds = 0.0
    torch.linalg.cholesky(
        torch.eye(2, dtype=torch.float64, device=model.device)
    )  # the first solve on a GPU loads its library
    states = calibration_states(view_of(model), calibration.batches())
    for block in view_of(model).blocks:
        width = max(round((1 - REDUCTION) * block.units), 1) * block.width
        features = [torch.randn(int(state.real.sum()), width, device=model.device) for state in states]
        squares = LeastSquares.empty(width, block.hidden_size, model.device)
        start = now(model.device)
        for f, state in zip(features, states, strict=True):
            squares.add(f, state.student[state.real])
        squares.solve(1e-6)
        seconds += now(model.device) - start
    return seconds


def floor_units(model: nn.Module, calibration: CalibrationSet, forward: float) -> float:
    """Return the least cost of the exact method, in dense forward passes.

    From each of L blocks to the top, there is a forward pass and a backward pass (only to inputs) of the same cost: L + 1 passes in
    all. A pass of the teacher, a pass that moves the student, Gram matrices and solves are added.
    """
    return len(view_of(model).blocks) + 3 + solve_seconds(model, calibration) / forward


def resident_mb(device: torch.device) -> float:
    """Return the memory in use in MB: of torch on the GPU if `device` is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e6
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb(device: torch.device) -> float:
    """Return the largest memory so far in MB: of torch on the GPU if `device` is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measured(shape: str, tokens: int, name: str, device: torch.device) -> dict[str, Any]:
    """Measure a method and return the columns of its row: seconds, units, memory and stages.

    For several reductions, they are of all together, but `stages` are of the last one.

    Args:
        shape: a name of `SHAPES`.
        tokens: approximate number of tokens in the calibration set.
        name: "floor", "whole_model", or a text for `Measured.of`.
        device: the device of the model.
    """
    model = random_model(SHAPES[shape]).to(device)
    calibration = random_calibration(tokens, model.config.vocab_size)
    batches = calibration.batches()
    result = {
        "examples": len(calibration.examples),
        "tokens": calibration.tokens,
        "padded_tokens_sorted": sum(batch["input_ids"].numel() for batch in batches),
        "padded_tokens_drawn": sum(batch["input_ids"].numel() for batch in calibration.batches(by_length=False)),
        "blocks": len(view_of(model).blocks),
    }
    before = resident_mb(device)
    forwards = forward_seconds(model, batches)
    if name == "floor":
        forward = statistics.median(forwards)
        return result | {"forward_seconds": forward, "units": floor_units(model, calibration, forward)}
    asked = Measured(WholeModel(), "full", [REDUCTION]) if name == "whole_model" else Measured.of(name)
    length = calibration.tokens / len(calibration.examples)
    most = math.floor(100 * asked.method.reach(model, length)) / 100
    reductions = [min(reduction, most) for reduction in asked.reductions]
    data = PruningData(calibration, precision=asked.precision)
    start = now(device)
    for reduction in reductions:
        outcome = asked.method.prune(Job(model, Classification(), data, FlopsBudget(reduction, length)))
    seconds = now(device) - start
    peak = peak_mb(device) - before
    forward = statistics.median(forwards + forward_seconds(model, batches))
    stages = {stage: round(value, 4) for stage, value in outcome.seconds_by_stage.items()}
    return result | {
        "flops_reduction": value_text(reductions),
        "forward_seconds": forward,
        "seconds": seconds,
        "units": seconds / forward,
        "peak_mb": peak,
        "stages": stages,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("tokens", type=int)
    parser.add_argument("method")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    result = measured(options.shape, options.tokens, options.method, pick_device(options.device))
    print(json.dumps(result | {"threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
