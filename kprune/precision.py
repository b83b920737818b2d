"""Full precision for what is measured and solved, whatever the caller has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute, within, float32 products in float32, without autocast, on tensors that can have gradients.

    `torch.set_float32_matmul_precision("high")` means TF32 on a GPU and bfloat16 on some CPUs: too coarse for Gram matrices.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
