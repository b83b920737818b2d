"""Measured latency: what is compared alternates in one run, so that all of it sees the same machine."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kprune.errors import UserError
from kprune.models.copies import frozen_shared_copy
from kprune.models.inputs import longest_input, model_inputs
from kprune.objectives import reads_choices
from kprune.settings_checks import check_count, check_settings
from kprune.types import Model


@dataclass(frozen=True)
class Point:
    """The batch that a latency is measured on: a number of sequences, and the number of tokens of each.

    Raises:
        UserError: one of them is no whole number above 0.
    """

    batch_size: int = 32
    sequence_length: int = 128

    def __post_init__(self) -> None:
        check_settings(self)
        check_count(batch_size=self.batch_size, sequence_length=self.sequence_length)


STANDARD = Point()


def rounds(device: torch.device) -> tuple[int, int]:
    """Return the numbers of unmeasured and of measured rounds: more on a GPU, where a round takes milliseconds and varies much."""
    return (10, 51) if device.type == "cuda" else (2, 9)


def alternate(
    calls: Sequence[Callable[[], Any]], device: torch.device, repeats: int | None = None, warm_up: int | None = None
) -> list[list[float]]:
    """Return the milliseconds of each call in each of `repeats` rounds, after `warm_up` unmeasured rounds; `rounds` gives the defaults.

    In a round, each call is made once, in turn.
    """
    unmeasured, measured = rounds(device)
    warm_up = unmeasured if warm_up is None else warm_up
    repeats = measured if repeats is None else repeats
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for repeat in range(warm_up + repeats):
            for call, seen in zip(calls, times, strict=True):
                start = now(device)
                call()
                elapsed = now(device) - start
                if repeat >= warm_up:
                    seen.append(1000 * elapsed)
    return times


def random_batch(model: Model, batch_size: int, sequence_length: int) -> dict[str, Tensor]:
    """Return what a model's forward takes: random tokens without padding, the same for the same shape; as choices of one example
    if the model reads choices.

    Raises:
        UserError: the sequences are longer than what the model reads.
    """
    if sequence_length > longest_input(model):
        raise UserError(
            f"latency can't be measured on {sequence_length} tokens, the model reads {longest_input(model)}: "
            "give a shorter length"
        )
    generator = torch.Generator().manual_seed(0)
    words: int = model.config.vocab_size
    first = 5 if words > 5 else 0  # the first few are special tokens, unless there are no others
    tokens = torch.randint(first, min(words, 1000), (batch_size, sequence_length), generator=generator)
    tokens = tokens.to(model.device)
    inputs = model_inputs({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    return {name: value[None] for name, value in inputs.items()} if reads_choices(model) else inputs


def of_fewest_tokens(models: Sequence[Model]) -> Model:
    """Return the model whose tokens all others have, too, if the vocabulary of some was cut."""
    return min(models, key=lambda model: model.config.vocab_size)


def measure_latency(dense: Model, pruned: Model, batch_size: int, sequence_length: int) -> dict[str, Any]:
    """Measure the median milliseconds of a forward pass on random tokens without padding, after warm-up passes.

    Returns:
        device, batch_size, sequence_length, threads, dense_ms, pruned_ms, speedup (the ratio of the medians) and
        speedup_range (the least and the largest of the single pairs' ratios).
    """
    batch = random_batch(of_fewest_tokens((dense, pruned)), batch_size, sequence_length)
    calls = [lambda model=model: model(**batch) for model in map(frozen_shared_copy, (dense, pruned))]
    times = alternate(calls, dense.device)
    dense_ms, pruned_ms = map(statistics.median, times)
    ratios = [d / p for d, p in zip(*times, strict=True)]
    return {
        "device": device_name(dense.device),
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "threads": torch.get_num_threads(),
        "dense_ms": dense_ms,
        "pruned_ms": pruned_ms,
        "speedup": dense_ms / pruned_ms,
        "speedup_range": [min(ratios), max(ratios)],
    }


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or the CPU, as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            return next(line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"
