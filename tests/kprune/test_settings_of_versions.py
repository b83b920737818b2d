"""What a saved folder says is what other versions of transformers compute, or they refuse it in one line."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny import SHAPE, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, GPT2LMHeadModel, RobertaForMaskedLM

from kprune.checkpoint import become_pruned, save
from kprune.models.modeling_kprune import keep_rotary, keep_settings, keep_windows, pruned_class

ROTARY = {"rope_type": "default", "rope_theta": 20000.0}
LINEAR = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0}
OLD = {"rope_theta": 10000.0, "rope_scaling": None}


@pytest.mark.parametrize(
    ("old", "rope", "expected"),
    [
        (OLD, ROTARY, {"rope_theta": 20000.0, "rope_scaling": None}),
        (OLD, LINEAR, {"rope_theta": 20000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        (
            OLD | {"partial_rotary_factor": 0.5},
            ROTARY | {"partial_rotary_factor": 0.75},
            {"rope_theta": 20000.0, "rope_scaling": None, "partial_rotary_factor": 0.75},
        ),
        (
            {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0},
            {"full_attention": ROTARY, "sliding_attention": ROTARY | {"rope_theta": 500.0}},
            {"global_rope_theta": 20000.0, "local_rope_theta": 500.0, "rope_scaling": None},
        ),
    ],
)
def test_transformers_4_reads_the_rotary_positions_that_transformers_5_saved(old, rope, expected, monkeypatch):
    config = SimpleNamespace(**old, rope_parameters=rope)
    keep_rotary(config)
    assert vars(config) == {**old, "rope_parameters": rope}
    monkeypatch.setattr("transformers.__version__", "4.57.6")
    keep_rotary(config)
    assert vars(config) == {**expected, "rope_parameters": rope}


@pytest.mark.parametrize(
    ("rope", "older"),
    [
        (ROTARY, {"rope_theta": 20000.0}),
        (LINEAR, {"rope_theta": 20000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ],
)
def test_a_stock_config_says_rotary_positions_in_both_ways(rope, older, tmp_path):
    config = AutoConfig.for_model("llama", **SHAPE | {"rope_parameters": rope})
    model = AutoModelForCausalLM.from_config(config)
    folder = save(model, tmp_path / "model", format="dense")
    written = json.loads((folder / "config.json").read_text())
    assert written["rope_parameters"] == rope and {name: written.get(name) for name in older} == older
    assert ("rope_scaling" in written) == ("rope_scaling" in older)
    assert AutoConfig.from_pretrained(folder).rope_parameters == rope


def test_rotary_positions_that_transformers_4_has_no_setting_for_are_one_line(monkeypatch):
    monkeypatch.setattr("transformers.__version__", "4.57.6")
    rope = {"full_attention": ROTARY, "sliding_attention": LINEAR}
    with pytest.raises(ValueError, match="rotary positions of this model needs transformers 5.0 or newer"):
        keep_rotary(SimpleNamespace(rope_theta=1.0, rope_local_base_freq=1.0, rope_scaling=None, rope_parameters=rope))


@pytest.mark.parametrize(
    ("kind", "version", "needed"),
    [("yarn", "4.55.4", "4.56"), ("longrope", "4.57.6", "5.0"), ("yarn", "4.56.2", None), ("linear", "4.50.0", None)],
)
def test_kinds_of_rotary_positions_that_an_older_version_computes_otherwise_are_one_line(
    kind, version, needed, monkeypatch
):
    monkeypatch.setattr("transformers.__version__", version)
    config = SimpleNamespace(**OLD, rope_parameters=LINEAR | {"rope_type": kind})
    if needed is None:
        keep_rotary(config)
        assert config.rope_scaling == {"rope_type": kind, "factor": 4.0}
    else:
        with pytest.raises(ValueError, match=f"rotary positions of kind {kind} needs transformers {needed} or newer"):
            keep_rotary(config)


def test_rotary_positions_by_layer_type_in_a_version_with_one_kind_are_one_line():
    """Transformers 5.2 adds its own base to what OLMo 3 has for each type of layer, and computes by it."""
    rope = {"full_attention": ROTARY, "sliding_attention": LINEAR}
    keep_rotary(SimpleNamespace(rope_parameters=rope))
    keep_rotary(SimpleNamespace(rope_parameters=rope | {"rope_type": "default", "rope_theta": None}))
    with pytest.raises(ValueError, match="ignores this model's rotary positions by layer type"):
        keep_rotary(SimpleNamespace(rope_parameters=rope | {"rope_type": "default", "rope_theta": 10000.0}))


F, S = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("types", "every"), [([F, S, S, F], 3), ([F, F, F], 1), ([F, S, S], 3), ([S, F, S], None), ([S, S], None)]
)
def test_a_version_that_counts_layers_with_a_window_reads_the_same_layers(types, every, monkeypatch):
    """ModernBERT of transformers 4 ignores `layer_types`."""
    config = SimpleNamespace(layer_types=types, global_attn_every_n_layers=2)
    keep_windows(config)
    assert config.global_attn_every_n_layers == 2
    monkeypatch.setattr("transformers.__version__", "4.57.6")
    if every is None:
        with pytest.raises(ValueError, match="these layer_types needs transformers 5.0"):
            keep_windows(config)
    else:
        keep_windows(config)
        assert config.global_attn_every_n_layers == every


def test_a_window_in_some_layers_is_one_line_in_a_version_with_one_mask(monkeypatch):
    monkeypatch.setattr("transformers.__version__", "4.52.4")
    for types in ([F, F], [S, S]):
        keep_windows(SimpleNamespace(layer_types=types))
    with pytest.raises(ValueError, match="a sliding window in some layers needs transformers 4.53"):
        keep_windows(SimpleNamespace(layer_types=[S, F]))


def test_a_setting_that_a_version_does_not_have_is_one_line():
    keep_settings(SimpleNamespace(use_bidirectional_attention=False))
    keep_settings(AutoConfig.for_model("gemma", use_bidirectional_attention=True))
    with pytest.raises(ValueError, match="ignores use_bidirectional_attention of this model"):
        keep_settings(SimpleNamespace(use_bidirectional_attention=True))


@pytest.mark.parametrize(
    ("settings", "version", "attention"),
    [
        ({}, "5.2.0", "sdpa"),
        ({"scale_attn_weights": True, "attn_logit_softcapping": None}, "5.2.0", "sdpa"),
        ({"scale_attn_weights": False}, "5.2.0", "eager"),
        ({"scale_attn_weights": False}, "5.5.0", "sdpa"),
        ({"scale_attn_by_inverse_layer_idx": True}, "4.57.6", "eager"),
        ({"attn_logit_softcapping": 50.0}, "5.20.0", "eager"),
    ],
)
def test_an_attention_that_sdpa_does_not_compute_in_a_version_is_eager(settings, version, attention, monkeypatch):
    monkeypatch.setattr("transformers.__version__", version)
    config = SimpleNamespace(**settings, _attn_implementation="sdpa")
    keep_settings(config)
    assert config._attn_implementation == attention


def test_sdpa_that_ignores_a_setting_is_one_line_if_it_is_asked_for(monkeypatch, tmp_path):
    config = AutoConfig.for_model("gpt2", **SHAPE | {"scale_attn_weights": False})
    folder = save(AutoModelForCausalLM.from_config(config), tmp_path / "model", format="pruned")
    load = partial(pruned_class(GPT2LMHeadModel).from_pretrained, folder)
    assert load(attn_implementation="sdpa").config._attn_implementation == "sdpa"
    monkeypatch.setattr("transformers.__version__", "5.2.0")
    assert load().config._attn_implementation == "eager"
    with pytest.raises(
        ValueError, match="5.2.0 ignores scale_attn_weights of this model with attn_implementation='sdpa'"
    ):
        load(attn_implementation="sdpa")


def test_the_bias_of_a_head_is_the_one_of_the_file(monkeypatch):
    """Transformers 4.50 loads the head's bias, draws its projection's, and would then keep the latter."""
    monkeypatch.setattr(RobertaForMaskedLM, "tie_weights", lambda self, *args, **kwargs: None)
    model = pruned_class(RobertaForMaskedLM)(become_pruned(tiny_model("roberta")).config)
    bias = torch.nn.Parameter(torch.ones(SHAPE["vocab_size"]))
    model.lm_head.bias, model.lm_head.decoder.bias = bias, torch.nn.Parameter(torch.zeros(SHAPE["vocab_size"]))
    model.tie_weights()
    assert model.lm_head.bias is bias and model.lm_head.decoder.bias is bias


@pytest.mark.parametrize(
    ("family", "share", "older"),
    [
        ("gpt_neox", 0.75, {"rotary_emb_base": 20000.0, "rotary_pct": 0.75}),
        ("phi", 0.75, {"rope_theta": 20000.0, "partial_rotary_factor": 0.75}),
        ("llama", 1.0, {"rope_theta": 20000.0}),
    ],
)
def test_a_stock_config_has_the_older_names_of_its_family(family, share, older, tmp_path):
    rope = ROTARY | {"partial_rotary_factor": share}
    config = AutoConfig.for_model(family, **SHAPE | {"rope_parameters": rope})
    folder = save(AutoModelForCausalLM.from_config(config), tmp_path / "model", format="dense")
    written = json.loads((folder / "config.json").read_text())
    names = ("rope_theta", "rotary_emb_base", "rotary_pct", "partial_rotary_factor")
    assert {name: written[name] for name in names if name in written} == older
    assert AutoConfig.from_pretrained(folder).rope_parameters == rope
