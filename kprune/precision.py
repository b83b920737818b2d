"""Full precision for what is measured and solved, whatever the caller has set."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute, within, float32 products in float32, without autocast, on tensors that can have gradients.

    `torch.set_float32_matmul_precision("high")` means TF32 on a GPU and bfloat16 on some CPUs: too coarse for Gram matrices.
    A tensor is float32 and on the CPU if nothing else is said, whatever `torch.set_default_dtype` or `set_default_device` say.
    """
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    torch.set_float32_matmul_precision("highest")
    torch.set_default_dtype(torch.float32)
    # Not if it is the CPU already: the context looks at every call of torch.
    on_cpu = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    try:
        with (
            on_cpu,
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
