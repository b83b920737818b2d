"""CPU time of forward passes, which does not grow if other processes keep the machine busy."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.inference_mode()
def cpu_times(models: Sequence[nn.Module], batch: dict[str, Tensor], repeats: int) -> list[list[float]]:
    """Return the CPU time of forward passes, in milliseconds: `repeats` numbers for each model.

    The models take turns, and one untimed round warms up.
    """
    times: list[list[float]] = [[] for _ in models]
    for _ in range(1 + repeats):
        for model, of in zip(models, times, strict=True):
            start = time.process_time()
            model(**batch)
            of.append(1000 * (time.process_time() - start))
    return [of[1:] for of in times]
