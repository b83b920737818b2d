"""Full precision for what is measured and solved, whatever the caller has set."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute, within, float32 products in float32, without autocast, on tensors that can have gradients.

    `torch.set_float32_matmul_precision("high")` means TF32 on a GPU and bfloat16 on some CPUs: too coarse for Gram matrices.
    So do the settings of each backend (`torch.backends.cuda.matmul.fp32_precision`), which take its place in newer versions.
    A tensor is float32 and on the CPU if nothing else is said, whatever `torch.set_default_dtype` or `set_default_device` say.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    # Not if it is the CPU already: the context looks at every call of torch.
    on_cpu = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    try:
        with (
            _exact_products(),
            on_cpu,
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def _exact_products() -> Iterator[None]:
    matmuls = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    backends: list[Any] = [matmul for matmul in matmuls if hasattr(matmul, "fp32_precision")]  # from torch 2.9 on
    own = [backend.fp32_precision for backend in backends]
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # it has no answer if a backend was set
        precision = "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for backend, setting in zip(backends, own, strict=True):
            backend.fp32_precision = setting
