"""Every family: blocks one by one equal the model, masked equals physically pruned, and what is saved is what was pruned."""

import copy
import json

import pytest
import torch
from families import EAGER_ALONE, ENCODERS, MODELS, TOKENS, tiny_of
from tiny import SHAPE
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.lfm2 import modeling_lfm2
from transformers.pytorch_utils import Conv1D

from kprune import prune
from kprune.batches import calibration_set
from kprune.checkpoint import become_pruned, check_saveable, load, save
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.flops import layer_parameters, model_flops
from kprune.models.masks import masked
from kprune.models.surgery import keep_layers, keep_units
from kprune.models.uniform import blocks_of
from kprune.objectives import objective_of
from kprune.streams import calibration_states


def batch():
    ids = torch.randint(5, 99, (3, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    # Less padding than a local attention's window: beyond it, transformers' own eager attention gives NaN.
    mask[1, 8:], mask[2, 7:] = 0, 0
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}


def some_masks(view):
    """Random masks; what mixes tokens in the first layer and an FFN in the second lose everything."""
    generator = torch.Generator().manual_seed(1)
    masks = {
        block.name: (torch.rand(block.units, generator=generator) < 0.5).to(view.model.dtype) for block in view.blocks
    }
    for block in view.blocks:
        if block is not view.blocks[0] and block.name != "1.ffn":
            masks[block.name][-1] = 1
        else:
            masks[block.name].zero_()
    return list(masks.values())


def pruned_like(model, masks):
    pruned = copy.deepcopy(model)
    for block, mask in zip(view_of(pruned).blocks, masks, strict=True):
        keep_units(block, mask.nonzero()[:, 0])
    return pruned


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_running_the_blocks_is_running_the_model(case, attention):
    if case in EAGER_ALONE and attention == "sdpa":
        pytest.skip("it has eager attention alone")
    model = tiny_of(case, attention=attention)
    view = view_of(model)
    ours = view.run(0, *view.embed(batch()), batch()).logits
    torch.testing.assert_close(ours, model(**batch()).logits, rtol=0, atol=rounding(case, 1e-12))


def rounding(case, otherwise):
    """Attention scores of GPT-J and GPT-Neo are float32 whatever the model is."""
    return 1e-6 if case in ("gptj", "gpt_neo") else otherwise


@pytest.mark.parametrize("case", MODELS)
@torch.no_grad()
def test_masked_equals_physically_pruned(case):
    model = tiny_of(case, attention="eager")
    view, dense = view_of(model), model(**batch()).logits
    masks = some_masks(view)
    with masked(view, masks):
        expected = model(**batch()).logits
    scale = expected.abs().max()
    assert (expected - dense).abs().max() > 0.05 * scale, "the mask does nothing, so the test proves nothing"
    pruned = pruned_like(model, masks)
    assert (pruned(**batch()).logits - expected).abs().max() <= rounding(case, 1e-9) * scale
    view = view_of(pruned)
    again = view.run(0, *view.embed(batch()), batch()).logits
    assert (again - expected).abs().max() <= rounding(case, 1e-9) * scale


@pytest.mark.parametrize("case", MODELS)
@torch.no_grad()
def test_what_is_saved_is_what_was_pruned(case, tmp_path):
    model = tiny_of(case, torch.float32, "eager")
    pruned = become_pruned(pruned_like(model, some_masks(view_of(model))))
    expected = pruned(**batch()).logits
    save(pruned, tmp_path / "model")
    loaded = load(tmp_path / "model")
    loaded.set_attn_implementation("eager")
    torch.testing.assert_close(loaded(**batch()).logits, expected, rtol=0, atol=1e-6)
    save(pruned, tmp_path / "dense", format="dense")
    stock = type(model).from_pretrained(tmp_path / "dense", attn_implementation="eager").eval()
    assert getattr(stock.config, "rope_parameters", None) == getattr(model.config, "rope_parameters", None)
    torch.testing.assert_close(stock(**batch()).logits, expected, rtol=1e-4, atol=1e-4)


GQA = [
    case
    for case, settings in MODELS.items()
    if "num_key_value_heads" in settings or case in ("nomic_bert", "gte", "jina_embeddings_v3")
]
"""Families whose config has the size of a head, so that it can say that there are fewer."""


@pytest.mark.parametrize("case", [case for case in MODELS if case != "lfm2"])
@torch.no_grad()
def test_layers_that_are_alike_load_as_the_stock_class(case, tmp_path):
    """Of the narrow widths, and giving the same answers."""
    dense = tiny_of(case, torch.float32, "eager")
    share = 0.4 if case in GQA else 0.2
    outcome = prune(dense, [batch()], params_reduction=share, method="magnitude", uniform=True)
    view = view_of(outcome.model)
    for site in view.sites:
        (units,) = {block.units for block in blocks_of(view, site)}
        whole = blocks_of(view_of(dense), site)[0].units
        assert units == whole if site.kind == "heads" and case not in GQA else 0 < units < whole or site.kind == "heads"
    outcome.save(tmp_path, format="uniform")
    assert not list(tmp_path.glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    stock = type(dense).from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert layer_parameters(view_of(stock)) == layer_parameters(view) <= (1 - share) * layer_parameters(view_of(dense))
    torch.testing.assert_close(stock(**batch()).logits, outcome.model(**batch()).logits, rtol=0, atol=1e-5)


def test_a_family_whose_config_rounds_its_widths_has_no_uniform_models():
    with pytest.raises(
        UserError, match="uniform=True keeps at least 2 heads and 1 heads and 48 neurons in every layer"
    ):
        prune(tiny_of("lfm2"), [batch()], params_reduction=0.2, method="magnitude", uniform=True)


@pytest.mark.parametrize("case", MODELS)
def test_units_own_what_goes_with_them(case):
    """FLOPs and parameters of a unit, against what taking one away removes from the modules."""
    model = tiny_of(case)
    view, length = view_of(model), 10
    flops, parameters = model_flops(view, length), layer_parameters(view)
    for block in view.blocks:
        per_unit = block.unit_flops(length), block.unit_parameters()
        keep_units(block, torch.arange(block.units - 1))
        assert model_flops(view, length) == pytest.approx(flops - per_unit[0])
        gone = parameters - layer_parameters(view)
        # With the last unit go norms of queries and keys, too.
        assert gone == per_unit[1] if block.units else gone >= per_unit[1]
        flops, parameters = model_flops(view, length), layer_parameters(view)


DECODERS = [case for case in MODELS if case not in ENCODERS]


@pytest.mark.parametrize("case", DECODERS)
@torch.no_grad()
def test_generation_with_a_cache_equals_generation_without(case):
    """The first layer has no head left: the cache that positions are counted by must not stay empty."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(case.partition(",")[0], **(SHAPE | TOKENS | {"num_labels": 3} | MODELS[case]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    view = view_of(model)
    pruned = become_pruned(pruned_like(model, some_masks(view)))
    prompt = torch.randint(5, 99, (2, 4), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(prompt)
    settings = dict(attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None)
    cached = pruned.generate(prompt, use_cache=True, **settings)
    assert cached.tolist() == pruned.generate(prompt, use_cache=False, **settings).tolist()
    assert cached.tolist() != model.generate(prompt, **settings).tolist()


@pytest.mark.parametrize("setting", [{"conv_kernel_size": 3, "conv_act": "gelu"}, {"share_att_key": False}])
def test_modules_that_the_sites_do_not_tell_of_are_refused(setting, monkeypatch):
    monkeypatch.setitem(MODELS, "deberta-v2", MODELS["deberta-v2"] | setting)
    with pytest.raises(UserError, match="has a module encoder.*: use another deberta-v2 model"):
        view_of(tiny_of("deberta-v2"))


def test_a_convolution_hands_no_argument_of_an_attention_on_to_its_kernel(monkeypatch):
    model, seen = tiny_of("lfm2"), []
    kernel = modeling_lfm2.causal_conv1d_fn
    monkeypatch.setattr(modeling_lfm2, "causal_conv1d_fn", lambda *args, **more: (seen.append(more), kernel(*args))[1])
    view = view_of(model)
    hidden, context = view.embed(batch())
    assert "position_embeddings" in context[0] and view.blocks[0].features(hidden, context).shape == hidden.shape
    assert seen == [{}]


def test_a_norm_that_a_config_leaves_out_is_told(monkeypatch):
    monkeypatch.setitem(MODELS, "stablelm", {"use_parallel_residual": True})
    with pytest.raises(
        UserError, match="layer 0 of the model has no module post_attention_layernorm, which pruning expects"
    ):
        view_of(tiny_of("stablelm"))


def test_a_layer_that_mixes_tokens_by_what_is_not_known_is_told():
    model = tiny_of("lfm2")
    model.model.layers[2].conv = torch.nn.Identity()
    with pytest.raises(UserError, match="layer 2 of the model has none of self_attn.out_proj, conv.out_proj"):
        view_of(model)


def test_a_part_of_a_model_is_refused():
    with pytest.raises(
        UserError, match="OPTDecoder is a part of a model of the family 'opt', .* layers at decoder.layers"
    ):
        view_of(tiny_of("opt").model.decoder)


@pytest.mark.parametrize("padding", [0, 5, None])
def test_a_padding_token_that_positions_do_not_count_from_is_refused(padding):
    """MPNet's count behind token 1, whatever its config says, so that a text of the longest length by the config is too long."""
    model = tiny_of("mpnet", torch.float32)
    model.config.pad_token_id = padding
    with pytest.raises(
        UserError, match=f"says pad_token_id={padding}, which transformers ignores: it computes by 1, .*pad_token_id=1$"
    ):
        prune(model, [batch()], 0.5)


@pytest.mark.parametrize("tokens", [10, SHAPE["hidden_size"]])
def test_a_table_of_positions_is_not_cut_with_the_examples(tokens):
    """It has as many rows as there are examples here, and as many columns as they have tokens."""
    view, ids = (
        view_of(tiny_of("deberta-v2")),
        torch.randint(5, 99, (16, tokens), generator=torch.Generator().manual_seed(0)),
    )
    (state,) = calibration_states(view, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])
    assert len(state.context[0]["rel_embeddings"]) == len(ids)
    with torch.no_grad():
        for piece in (state.some_examples(slice(0, 4)), state.some_examples(slice(4, 16))):
            logits = view.run(0, piece.student, piece.context, piece.batch).logits
            torch.testing.assert_close(logits, view.model(**piece.batch).logits)


@pytest.mark.parametrize("case", MODELS)
def test_what_changes_no_answer_is_no_difference_from_the_stock_model(case):
    model = tiny_of(case, torch.float32)
    changes = [
        lambda: model,
        model.half,
        model.float,
        model.bfloat16,
        model.double,
        model.train,
        lambda: model.set_attn_implementation("eager"),
        lambda: model.resize_token_embeddings(104, mean_resizing=False),
        lambda: model.config.update({"use_cache": False, "name_or_path": "elsewhere"}),
    ]
    if model.supports_gradient_checkpointing:
        changes.append(model.gradient_checkpointing_enable)
    if not view_of(model).family.positions_after_padding:
        changes.append(lambda: model.config.update({"pad_token_id": 3}))
    for change in changes:
        change()
        random = torch.get_rng_state()
        check_saveable(model)
        assert torch.equal(torch.get_rng_state(), random)


def test_frequencies_that_a_long_text_left_are_no_difference():
    rope = {"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 2.0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE | TOKENS, rope_parameters=rope))
    before = model.model.rotary_emb.inv_freq.clone()
    model(torch.full((1, 2 * SHAPE["max_position_embeddings"]), 7))
    assert not torch.equal(model.model.rotary_emb.inv_freq, before)
    check_saveable(model)
    model.model.rotary_emb.original_inv_freq.mul_(0.5)
    with pytest.raises(UserError, match="rotary_emb has another original_inv_freq"):
        check_saveable(model)


@pytest.mark.parametrize("case", ["modernbert", "qwen2"])
def test_what_is_left_of_a_model_without_a_layer_loads_as_it_is(case, tmp_path):
    model = tiny_of(case, torch.float32)
    keep_layers(view_of(model), [0, 2])
    with torch.no_grad():
        expected = model(**batch()).logits
        torch.testing.assert_close(load(save(model, tmp_path / "model"))(**batch()).logits, expected)


def test_token_types_of_models_that_have_no_table_of_them():
    """DeBERTa's forward takes them and reads none; GPT-2 looks them up among its words."""
    ids = torch.randint(5, 99, (4, 8), generator=torch.Generator().manual_seed(0))
    zeros, words = torch.zeros_like(ids), torch.full_like(ids, 7)
    deberta = tiny_of("deberta-v2")
    assert deberta.config.type_vocab_size == 0
    without = calibration_set(deberta, [{"input_ids": ids}], objective_of(deberta), False)
    assert (
        calibration_set(deberta, [{"input_ids": ids, "token_type_ids": zeros}], objective_of(deberta), False) == without
    )
    gpt2 = tiny_of("gpt2")
    read = calibration_set(gpt2, [{"input_ids": ids, "token_type_ids": words}], objective_of(gpt2), False)
    assert read.examples[0]["token_type_ids"] == [7] * 8
    with pytest.raises(UserError, match="token type 99"):
        calibration_set(gpt2, [{"input_ids": ids, "token_type_ids": words + 92}], objective_of(gpt2), False)


@pytest.mark.parametrize("case", MODELS)
def test_the_blocks_have_every_linear_module_of_the_layers(case):
    view = view_of(tiny_of(case))
    modules = [module for module in view.layers.modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    assert {id(module) for module in modules} == {id(module) for block in view.blocks for module in block.linears}
