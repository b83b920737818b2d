"""What the caller has set in torch changes neither the kept units nor the weights."""

from contextlib import contextmanager

import pytest
import torch
from tiny import tiny_labelled, tiny_model

from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.methods.registry import build
from kprune.objectives import objective_of
from kprune.precision import computes_in_float64, full_precision


def pruned(name, precision="full"):
    model, data = tiny_model(dtype=torch.float32), PruningData(tiny_labelled(), precision=precision)
    return build(name, {}).prune(Job(model, objective_of(model), data, FlopsBudget(0.5, 8.0)))


def same(one, other):
    assert one.plan == other.plan
    for ours, theirs in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def set_legacy():
    torch.set_float32_matmul_precision("medium")


def set_backend():
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def set_gpu():
    """What torch recommends for a GPU; from then on it refuses to tell a precision that holds for all backends."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def product():
    left = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    return left @ left


@contextmanager
def setting(set_coarse):
    """Set a precision while the context is open, or skip the test if this torch does not have that setting."""
    matmuls = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    if set_coarse is not set_legacy and not all(hasattr(matmul, "fp32_precision") for matmul in matmuls):
        pytest.skip("this torch sets no precision by backend")
    own = [(matmul, matmul.fp32_precision) for matmul in matmuls if hasattr(matmul, "fp32_precision")]
    try:
        set_coarse()
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        for matmul, precision in own:
            matmul.fp32_precision = precision


@pytest.mark.parametrize(
    "name, precision",
    [*((name, "full") for name in ("kprune", "kprune_plus", "kwon", "flap", "oscar")), ("kprune_plus", "reduced")],
)
@pytest.mark.parametrize("set_coarse", [set_legacy, set_backend])
def test_a_precision_that_the_caller_set(name, precision, set_coarse):
    expected, exact = pruned(name, precision), product()
    with setting(set_coarse):
        coarse = product()
        if torch.equal(coarse, exact):
            pytest.skip("this processor has no coarser float32 products")
        same(pruned(name, precision), expected)
        assert torch.equal(product(), coarse), "the caller's setting is gone"


@pytest.mark.parametrize("set_coarse", [set_backend, set_gpu])
def test_the_setting_of_a_backend_comes_back(set_coarse):
    with setting(set_coarse):
        matmuls = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
        before = [matmul.fp32_precision for matmul in matmuls]
        with pytest.raises(ZeroDivisionError), full_precision():
            assert [matmul.fp32_precision for matmul in matmuls] == ["ieee", "ieee"]
            1 / 0  # noqa: B018
        assert [matmul.fp32_precision for matmul in matmuls] == before


@pytest.mark.parametrize("name", ["kprune", "kprune_plus", "kwon", "flap", "oscar"])
def test_a_default_type_and_device_of_the_caller(name):
    expected = pruned(name)
    model = tiny_model(dtype=torch.float32)
    job = Job(model, objective_of(model), PruningData(tiny_labelled()), FlopsBudget(0.5, 8.0))
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            same(build(name, {}).prune(job), expected)
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["kprune", "kprune_plus", "kwon", "flap", "oscar"])
@pytest.mark.parametrize(
    "surroundings", [torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.no_grad()]
)
def test_surroundings_of_the_caller(name, surroundings):
    expected = pruned(name)
    with surroundings:
        same(pruned(name), expected)


def test_the_flag_holds_within_and_comes_back_after_an_error():
    """Where no product of this machine is coarser, this is what can be seen."""
    torch.set_float32_matmul_precision("medium")
    try:
        if torch.get_float32_matmul_precision() != "medium":
            pytest.skip("this processor has no coarser float32 products, and torch does not keep the flag")
        with pytest.raises(ZeroDivisionError), full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.is_autocast_enabled("cpu")
            1 / 0  # noqa: B018
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("device", ["hpu", "privateuseone", "meta", "nonsense"])
def test_a_device_that_is_not_there_computes_nothing(device):
    assert not computes_in_float64(device)
