"""Exported programs against the model they were made of: any batch, any length, padding, emptied blocks."""

import numpy as np
import pytest
import torch
from tiny import KEPT_UNITS, narrowed
from transformers import AutoConfig, AutoModelForCausalLM

from kprune.checkpoint import become_pruned, export_onnx
from kprune.checkpoint.onnx import check_onnx, dynamic_shapes, example_inputs
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.surgery import keep_units

onnxruntime = pytest.importorskip("onnxruntime")
# Of two layers: an export takes seconds.
SOME_UNITS, NO_HEADS = KEPT_UNITS[:4], [[], [1, 5, 40], [], list(range(48))]
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
        ("bert", "classification", SOME_UNITS),
        ("distilbert", "span", SOME_UNITS),
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
    model = narrowed(family, head, SOME_UNITS)
    program = torch.export.export(model, (), example_inputs(model), dynamic_shapes=dynamic_shapes(model)).module()
    for inputs in batches(model):
        torch.testing.assert_close(program(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@torch.no_grad()
def test_a_language_model_without_a_cache(family, tmp_path):
    """Layers have different numbers of key/value heads, one of them none."""
    torch.manual_seed(0)
    shape = dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    more = {"llama": {"num_key_value_heads": 2}, "mistral": {"num_key_value_heads": 2, "sliding_window": 5}, "gpt2": {}}
    tokens = dict(pad_token_id=1, bos_token_id=2, eos_token_id=3, max_position_embeddings=64, initializer_range=0.3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape, **tokens, **more[family])).eval()
    for block, units in zip(view_of(model).blocks, [[], [1, 5, 40], [0], [*range(0, 48, 3)]], strict=True):
        keep_units(block, torch.tensor(units, dtype=torch.long))
    session = onnxruntime.InferenceSession(export_onnx(become_pruned(model), tmp_path))
    assert [output.name for output in session.get_outputs()] == ["logits"]
    assert model.config.use_cache, "the model stays as it was"
    for inputs in batches(model):
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        expected, real = model(**inputs).logits, inputs["attention_mask"].bool()
        torch.testing.assert_close(torch.from_numpy(found)[real], expected[real], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("family, head", [("bert", "classification"), ("distilbert", "span")])
@torch.no_grad()
def test_weights_of_eight_bits(family, head, tmp_path):
    """All products' weights and the embeddings are rounded, and the answers move little."""
    import onnx

    model = narrowed(family, head, SOME_UNITS)
    whole = export_onnx(model, tmp_path)
    file = export_onnx(model, tmp_path / "int8.onnx", int8=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx", "model.onnx"]
    sessions = [onnxruntime.InferenceSession(path) for path in (whole, file)]
    for of in (onnxruntime.InferenceSession.get_inputs, onnxruntime.InferenceSession.get_outputs):
        before, after = ([(entry.name, entry.shape) for entry in of(session)] for session in sessions)
        assert after == before
    eight = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    tensors = onnx.load(file).graph.initializer
    matrices = [tensor for tensor in tensors if len(tensor.dims) == 2 and tensor.data_type in eight]
    assert sum(np.prod(tensor.dims) for tensor in matrices) == sum(
        p.numel() for p in model.parameters() if p.dim() == 2
    )
    feeds = [{name: value.numpy() for name, value in inputs.items()} for inputs in batches(model)]
    expected, found = (np.concatenate([session.run(None, feed)[0].ravel() for feed in feeds]) for session in sessions)
    assert 0 < np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_a_kind_of_file_that_is_not_known():
    for onnx in (False, True, "int8"):
        check_onnx(onnx)
    with pytest.raises(UserError, match="onnx=int4 is unknown: use true, or int8 for weights of eight bits"):
        check_onnx("int4")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="can't be written"):
        export_onnx(narrowed(), tmp_path / "nowhere" / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_larger_than_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr("kprune.checkpoint.onnx.LARGEST", 1000)
    with pytest.raises(UserError, match="the weights are 0.0 GB, and one ONNX file holds 2 GB: save without onnx"):
        export_onnx(narrowed(), tmp_path)


def test_missing_packages_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install '.\\[onnx\\]' in a clone"):
        export_onnx(narrowed(), tmp_path)
