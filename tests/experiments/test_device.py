"""What a GPU needs of `device=`, held on a machine without one by a torch that acts as if it had two."""

import pytest
import torch

from experiments.inputs.subject import pick_device
from kprune.errors import UserError


@pytest.fixture
def two_gpus(monkeypatch):
    current = [1]

    def set_device(device):
        if device.index is None:  # as torch does
            raise ValueError(f"Expected a torch.device with a specified index, but got: {device}")
        current[0] = device.index

    empty = torch.empty(1)

    def zeros(*size, dtype, device):
        if (torch.device(device).index or 0) > 1:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return empty

    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return current


@pytest.mark.parametrize("name, index", [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_becomes_the_current_one(two_gpus, name, index):
    assert pick_device(name) == torch.device("cuda", index)
    assert two_gpus == [index]


def test_auto_is_the_gpu(two_gpus):
    assert pick_device("auto").type == "cuda"


def test_a_gpu_that_is_not_there(two_gpus):
    with pytest.raises(UserError, match="device=cuda:7 is not to be had here"):
        pick_device("cuda:7")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "gpu", "cpu:x"])
def test_a_device_that_this_machine_lacks(name):
    with pytest.raises(UserError, match="use device=auto or device=cpu"):
        pick_device(name)
