"""Precision of what is measured and solved, whatever the caller has set."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from kprune.errors import UserError

Precision = Literal["full", "reduced"]
"""The precision of the products of linear layers (`linear_layers`)."""
PRECISIONS: tuple[Precision, ...] = "full", "reduced"


def computes_in_float64(device: str | torch.device) -> bool:
    """Tell whether a device is there, computes in float64, in which least squares are solved, and gives back what it computed."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    # TypeError: of Apple's "mps"; NotImplementedError: of "meta"; ImportError: of "hpu", whose package is another one.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ImportError):
        return False
    return True


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32, without autocast, on tensors that can have gradients, while the context is open.

    `torch.set_float32_matmul_precision("high")` means TF32 on a GPU and bfloat16 on some CPUs: too coarse for Gram matrices.
    In newer versions of torch, the settings of each backend (`torch.backends.cuda.matmul.fp32_precision`) can mean the same.
    A tensor is float32 and on the CPU if nothing else is said, whatever `torch.set_default_dtype` or `set_default_device` say.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    # No context if the default is the CPU already, since the context intercepts every call of torch.
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


def linear_layers(precision: Precision) -> AbstractContextManager[Any]:
    """Compute the products of linear layers, forward and backward, in a precision while the context is open.

    Reduced, their factors are rounded to what the processor multiplies fastest, bfloat16 on a CPU and TF32 on a GPU. Sums are
    float32. On a CPU a product is rounded once more, to bfloat16; biases and the residual stream are added in float32. Attention
    and norms stay in full precision, and so does all that is solved, since neither Gram matrices nor what is made of them is
    computed by a linear layer.
    """
    return _ReducedLayers() if precision == "reduced" else nullcontext()


def check_reduced(device: torch.device, dtype: torch.dtype) -> None:
    """Check that reduced precision means something for models of a type on a device.

    Raises:
        UserError: the model is not float32, or the processor multiplies nothing coarser any faster.
    """
    if dtype != torch.float32:
        raise UserError(f"precision='reduced' is for models in float32, and this one is in {dtype}: leave it out")
    with full_precision():
        x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).to(device)
        exact = x @ x
        with _coarse_products():
            same = torch.equal(x @ x, exact)  # torch takes a coarser product only if the processor has one
    if same:
        raise UserError(
            f"precision='reduced' is not faster on this {device.type.upper()}, which does not multiply in bfloat16 or TF32: "
            "leave it out"
        )


@contextmanager
def _coarse_products() -> Iterator[None]:
    """Let torch take bfloat16 or TF32 for float32 products while the context is open; `full_precision` is around it."""
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


class _ReducedLayers(TorchFunctionMode):
    """Send the products of linear layers, and those alone, to `_ReducedLinear`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            return _reduced_linear(*args, **kwargs or {})
        if func is torch.addmm:  # what GPT-2's Conv1D computes
            bias, x, weight = args
            return _reduced_linear(x, weight.T, bias)
        return func(*args, **kwargs or {})


def _reduced_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _ReducedLinear.apply(input, weight, bias)


class _ReducedLinear(torch.autograd.Function):
    """A linear layer whose products, those of the backward pass included, are in reduced precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, weight = _factor(x), _factor(weight)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        with _coarse_products():
            if x.dtype == torch.float32:
                return F.linear(x, weight, bias)
            product = F.linear(x, weight).float()
        return product if bias is None else product.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        slope = _factor(gradient)
        with _coarse_products():
            return (
                (slope @ weight).float() if ctx.needs_input_grad[0] else None,
                (slope.reshape(rows.shape).T @ x.reshape(-1, x.shape[-1])).float() if ctx.needs_input_grad[1] else None,
                rows.sum(dim=0) if ctx.needs_input_grad[2] else None,
            )


def _factor(x: Tensor) -> Tensor:
    """Return a float32 factor of a product, on a CPU in bfloat16.

    On a CPU, the flag of `_coarse_products` gains little: with it, torch's products of float32 numbers are hardly faster, while
    products of bfloat16 numbers are about twice as fast on a CPU without AMX. And if the flag is set for a whole pass, attention
    takes up to ten times as long, since torch's fused kernel multiplies small pieces.
    """
    return x.bfloat16() if x.device.type == "cpu" else x
