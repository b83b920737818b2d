"""Measured latency: dense and pruned alternate in one run, so that both see the same machine."""

import statistics
import time

import torch
from torch import nn

from kprune.transformer.adapter import model_inputs

WARM_UP = 2


def measure_latency(
    dense: nn.Module, pruned: nn.Module, batch_size: int, sequence_length: int, repeats: int = 9
) -> dict[str, float | int | str]:
    """Median milliseconds of a forward pass on random tokens without padding, after two warm-up passes each.

    Returns:
        device, batch_size, sequence_length, threads, dense_ms, pruned_ms, speedup (the ratio of the medians).
    """
    device = dense.device
    tokens = torch.randint(5, min(dense.config.vocab_size, 1000), (batch_size, sequence_length), device=device)
    batch = model_inputs({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    models = (dense.eval(), pruned.eval())
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for repeat in range(WARM_UP + repeats):
            for model, seen in zip(models, times, strict=True):
                start = _now(device)
                model(**batch)
                elapsed = _now(device) - start
                if repeat >= WARM_UP:
                    seen.append(1000 * elapsed)
    dense_ms, pruned_ms = (statistics.median(seen) for seen in times)
    return {
        "device": _device_name(device),
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "threads": torch.get_num_threads(),
        "dense_ms": dense_ms,
        "pruned_ms": pruned_ms,
        "speedup": dense_ms / pruned_ms,
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            return next(line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"
