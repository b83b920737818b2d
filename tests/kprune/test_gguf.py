"""Files of llama.cpp: their widths and weights, and what llama.cpp computes of them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_files import SHAPE, llama_cpp
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import kprune
from kprune.checkpoint import check_format, check_kind, save
from kprune.checkpoint.gguf import interleaved
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.surgery import keep_units

gguf = pytest.importorskip("gguf")
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# An attention in the lowest layer, and one with a bias, are zeros in the file; that of layer 2 is gone.
FREE = {
    "heads": [[], [0, 2], [], [1]],
    "neurons": [[1, 5, 7], [], [0, 2, 40], []],
}
ALIKE = {"heads": [[0, 2], [1, 2], [0, 1], [0, 2]], "neurons": [[*range(7)], [*range(9, 16)]] * 2}
CASES = {
    "llama": ({}, FREE),
    "llama, uniform": ({"num_attention_heads": 8, "num_key_value_heads": 4}, ALIKE),
    "llama, tied": ({"tie_word_embeddings": True, "rope_parameters": LLAMA3}, FREE),
    "llama, biases": ({"attention_bias": True, "mlp_bias": True}, FREE),
    "llama, uniform, biases": (
        {"attention_bias": True, "mlp_bias": True, "num_attention_heads": 8, "num_key_value_heads": 4},
        ALIKE,
    ),
    "mistral": ({"sliding_window": 40}, FREE),
    "qwen2": ({}, FREE),
    "qwen2, uniform": ({}, ALIKE),
}


def tiny(case="llama"):
    torch.manual_seed(0)
    settings, kept = CASES[case]
    # A Llama's heads divide its hidden size; the others are as odd as they like.
    settings = {"num_attention_heads": 8, "num_key_value_heads": 4} | settings if case[:5] == "llama" else settings
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.partition(",")[0], **(SHAPE | settings)))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    view = view_of(model)
    for kind, units in kept.items():
        for block, which in zip(view.of_kind(kind), units, strict=True):
            keep_units(block, torch.tensor(which, dtype=torch.long))
    return model.eval()


def read(file):
    reader = gguf.GGUFReader(file)
    values = {name: field.contents() for name, field in reader.fields.items()}
    return values, {entry.name: torch.from_numpy(np.array(entry.data)) for entry in reader.tensors}


@pytest.mark.parametrize("case", CASES)
def test_a_file_read_back_has_the_widths_and_the_weights(case, tmp_path):
    model = tiny(case)
    save(model, tmp_path / "model", format="gguf-f32")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.gguf"]
    values, tensors = read(tmp_path / "model/model.gguf")
    alike = CASES[case][1] is ALIKE
    name = "llama" if alike else "deci"
    assert values["general.architecture"] == name
    biased = "biases" in case
    groups = [2] * 4 if alike else [1, 2, 1 if biased else 0, 1]
    expected = {
        "attention.head_count_kv": groups,
        "attention.head_count": [2 * count for count in groups],
        "feed_forward_length": [7] * 4 if alike else [3, 32, 3, 32],
    }
    for key, counts in expected.items():
        assert values[f"{name}.{key}"] == (counts[0] if alike else counts)
    assert values[f"{name}.attention.key_length"] == values[f"{name}.rope.dimension_count"] == 8
    assert values[f"{name}.context_length"] == (40 if case == "mistral" else 64)
    assert values["tokenizer.ggml.model"] == "none"
    state = model.state_dict()
    for layer in range(4):
        for module in ("down", "up", "gate"):
            weight = state.get(f"model.layers.{layer}.mlp.{module}_proj.weight")
            written = tensors[f"blk.{layer}.ffn_{module}.weight"]
            assert not written.any() if weight is None else torch.equal(written, weight)
        attention = [key for key in tensors if key.startswith(f"blk.{layer}.attn")]
        assert bool(attention) == (groups[layer] > 0)
        value = state.get(f"model.layers.{layer}.self_attn.v_proj.weight")
        if value is not None:
            assert torch.equal(tensors[f"blk.{layer}.attn_v.weight"], value)
            key = state[f"model.layers.{layer}.self_attn.k_proj.weight"]
            # HF turns columns i and i + 4 of a head together, llama.cpp 2i and 2i + 1.
            assert torch.equal(tensors[f"blk.{layer}.attn_k.weight"][:8:2], key[:4])
            assert torch.equal(tensors[f"blk.{layer}.attn_k.weight"][1:8:2], key[4:8])
    assert ("output.weight" in tensors) == (case != "llama, tied")
    assert ("rope_freqs.weight" in tensors) == (case == "llama, tied")


@torch.no_grad()
def test_transformers_reads_a_file_of_layers_that_are_alike(tmp_path):
    """With a reader that is not this project's."""
    model = tiny("llama, uniform")
    save(model, tmp_path, format="gguf-f32")
    ids = torch.randint(4, 60, (1, 10), generator=torch.Generator().manual_seed(0))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert type(loaded) is type(model)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_half_precision_is_of_matrices_alone(tmp_path):
    model = tiny("qwen2")
    save(model, tmp_path, format="gguf")
    _, tensors = read(tmp_path / "model.gguf")
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.float16 if tensor.dim() > 1 else torch.float32), name
    assert torch.equal(tensors["token_embd.weight"], model.model.embed_tokens.weight.half())


def test_a_weight_beyond_half_precision(tmp_path):
    model = tiny("qwen2")
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = -70000.0
    with pytest.raises(
        UserError, match="ffn_down.weight has a weight of 7e.04, and float16 ends at 65504: save with format='gguf-f32'"
    ):
        save(model, tmp_path / "half", format="gguf")
    assert not (tmp_path / "half").exists()
    save(model, tmp_path / "whole", format="gguf-f32")
    _, tensors = read(tmp_path / "whole" / "model.gguf")
    assert min(tensor.min() for tensor in tensors.values()) == -70000.0


def test_interleaving_keeps_heads_apart():
    rows = torch.arange(16)[:, None]
    assert interleaved(rows, 8)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_models_that_llama_cpp_has_no_architecture_for():
    def of(family, **settings):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(SHAPE | settings)))

    for model, message in (
        (of("qwen3"), "language models of llama, mistral, qwen2, this is a Qwen3ForCausalLM"),
        (of("llama", num_attention_heads=4, hidden_act="gelu"), "SiLU alone"),
        (
            of("llama", num_attention_heads=4, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}),
            "rotary positions of kind 'yarn'",
        ),
    ):
        with pytest.raises(UserError, match=f"{message}.*another format") as refused:
            check_kind(model, "gguf")
        assert "\n" not in str(refused.value)
        check_kind(model, "pruned")


def test_without_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install '.\\[gguf\\]' in a clone"):
        check_format("gguf")


def logits_in_llama_cpp(file, ids):
    """The logits of all tokens, [T, V], with a cache in float32."""
    module = llama_cpp()
    model = module.Llama(
        str(file),
        n_ctx=256,
        logits_all=True,
        verbose=False,
        n_threads=1,
        type_k=module.GGML_TYPE_F32,
        type_v=module.GGML_TYPE_F32,
    )
    model.eval(ids)
    return torch.tensor(np.array(model.scores[: len(ids)]))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_llama_cpp_computes_what_torch_does(case, tmp_path):
    model = tiny(case)
    save(model, tmp_path, format="gguf-f32")
    ids = torch.randint(4, 60, (1, 24), generator=torch.Generator().manual_seed(0))
    expected = model(ids).logits[0]
    found = logits_in_llama_cpp(tmp_path / "model.gguf", ids[0].tolist())
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.real_data
@torch.no_grad()
def test_a_pruned_smollm2_runs_in_llama_cpp(tmp_path):
    """By magnitude, so the numbers are bad, but they are the same ones; and the tokens are those of transformers."""
    folder = Path(os.environ["KPRUNE_MIRROR"]) / "kprune-reference/smollm2-135m-instruct"
    if not folder.is_dir():
        pytest.skip("the mirror has no smollm2-135m-instruct")
    llama_cpp()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = "The history of 1912 began, as they'd said, in a small town; its people were few."
    ids = tokenizer(text, return_tensors="pt")
    for uniform in (False, True):
        outcome = kprune.prune(model, [ids], params_reduction=0.2, method="magnitude", uniform=uniform)
        outcome.save(tmp_path / "small", tokenizer, format="gguf-f32")
        expected = outcome.model(**ids).logits[0]
        found = logits_in_llama_cpp(tmp_path / "small/model.gguf", ids.input_ids[0].tolist())
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    module = llama_cpp().Llama(str(tmp_path / "small/model.gguf"), verbose=False, vocab_only=True)
    for line in (text, json.dumps({"a": [1, 22, 333]}, indent=2), "<|im_start|>user\nHi<|im_end|>\n"):
        assert module.tokenize(line.encode(), add_bos=False, special=True) == tokenizer(line).input_ids
