"""Kernels for 2:4: what is refused without a GPU, what is converted, and on a GPU that the function stays."""

import pytest
import torch
from tiny import SHAPE, tiny_calibration, tiny_model
from transformers import BertConfig, BertForSequenceClassification

import kprune
from kprune.errors import UserError
from kprune.models import semi_structured, view_of
from kprune.models.surgery import keep_units


def wide_model():
    torch.manual_seed(0)
    config = BertConfig(**SHAPE | {"hidden_size": 64, "intermediate_size": 128}, num_labels=3)
    return BertForSequenceClassification(config).eval()


def masked(model):
    return kprune.prune(model, tiny_calibration(24).batches(), method="wanda", sparsity="2:4").model


@pytest.fixture
def gpu(monkeypatch):
    """Let a CPU pass for a GPU, and collect what is converted."""
    converted = []
    monkeypatch.setattr(semi_structured, "check_gpu", lambda device: None)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda w: converted.append(w.clone()) or w)
    return converted


def refused(model, *words):
    with pytest.raises(UserError) as error:
        kprune.with_sparse_kernels(model)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_a_cpu_and_an_old_gpu_are_told(monkeypatch):
    refused(wide_model(), "the model is on cpu: move it to one, or use it as it is")
    refused(None, "model family 'NoneType' is not supported")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(UserError, match=r"compute capability 8\.0 or above, and the model is on cuda:0: move it"):
        semi_structured.check_gpu(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    semi_structured.check_gpu(torch.device("cuda:0"))


def test_every_weight_of_the_layers_is_converted_and_no_other(gpu):
    model = masked(wide_model()).half()
    before = [parameter.clone() for parameter in model.parameters()]
    fast = kprune.with_sparse_kernels(model)
    weights = [module.weight for block in view_of(model).blocks for module in block.linears]
    assert len(gpu) == len(weights) == 3 * 6
    assert all(torch.equal(a, b) and a.is_contiguous() for a, b in zip(gpu, weights, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in fast.parameters()) and fast is not model


def test_other_weights_are_told(gpu):
    refused(masked(wide_model()), "the model is torch.float32: use model.half()")
    refused(wide_model().half(), "0.attention (64 by 64) keeps more than two weights of four inputs", "sparsity='2:4'")
    refused(
        masked(tiny_model(dtype=torch.float32)).half(), "0.attention (32 by 32) has a size that is no multiple of 64"
    )
    narrow = wide_model()
    keep_units(view_of(narrow).blocks[1], torch.arange(100))
    refused(masked(narrow).half(), "0.ffn (100 by 64) has a size that is no multiple of 64")
    assert not gpu, "nothing was converted"


@pytest.mark.gpu
def test_the_function_stays_on_a_gpu():
    model = masked(wide_model()).half().cuda()
    batch = {key: value.cuda() for key, value in tiny_calibration(8, 8).batches()[0].items()}
    with torch.no_grad():
        fast, slow = (m(**batch).logits for m in (kprune.with_sparse_kernels(model), model))
    torch.testing.assert_close(fast, slow, rtol=1e-2, atol=1e-2)
    assert semi_structured.CAPABILITY <= torch.cuda.get_device_capability()
