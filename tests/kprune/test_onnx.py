"""Exported programs against the model they were made of: any batch, any length, padding, emptied blocks."""

import numpy as np
import pytest
import torch
from tiny import KEPT_UNITS, narrowed

from kprune.checkpoint import export_onnx
from kprune.checkpoint.onnx import dynamic_shapes, example_inputs
from kprune.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime")
NO_HEADS = [[], [1, 5, 40], [], [], [], list(range(48))]
SHAPES = [(1, 1), (1, 9), (5, 11), (3, 2), (7, 50)]


def batches(model):
    generator = torch.Generator().manual_seed(0)
    for examples, length in SHAPES:
        inputs = {name: torch.ones(examples, length, dtype=torch.long) for name in example_inputs(model)}
        inputs["input_ids"] = torch.randint(5, 99, (examples, length), generator=generator)
        lengths = torch.randint(1, length + 1, (examples,), generator=generator)
        lengths[0] = length
        inputs["attention_mask"] = (torch.arange(length) < lengths[:, None]).long()
        inputs["input_ids"][inputs["attention_mask"] == 0] = model.config.pad_token_id
        if "token_type_ids" in inputs:
            inputs["token_type_ids"][:, : length // 2] = 0
        yield inputs


@pytest.mark.parametrize(
    "family, head, kept_units",
    [
        ("bert", "classification", KEPT_UNITS),
        ("distilbert", "span", KEPT_UNITS),
        ("roberta", "classification", NO_HEADS),
    ],
)
def test_onnxruntime_gives_the_same_logits(family, head, kept_units, tmp_path):
    model = narrowed(family, head, kept_units).train()
    file = export_onnx(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert model.training, "the model stays as it was"
    model.eval()
    session = onnxruntime.InferenceSession(file)
    names = ["start_logits", "end_logits"] if head == "span" else ["logits"]
    assert [output.name for output in session.get_outputs()] == names
    assert {entry.name for entry in session.get_inputs()} == set(example_inputs(model))
    assert all(entry.shape == ["batch", "length"] for entry in session.get_inputs())
    for inputs in batches(model):
        results = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        for ours, theirs in zip(results, model(**inputs).to_tuple(), strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family, head", [("electra", "classification"), ("distilbert", "classification")])
def test_torch_export_gives_the_same_logits(family, head):
    model = narrowed(family, head)
    program = torch.export.export(model, (), example_inputs(model), dynamic_shapes=dynamic_shapes(model)).module()
    for inputs in batches(model):
        torch.testing.assert_close(program(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="can't be written"):
        export_onnx(narrowed(), tmp_path / "nowhere" / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'kprune\\[onnx\\]'"):
        export_onnx(narrowed(), tmp_path)
