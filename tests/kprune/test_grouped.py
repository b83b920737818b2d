"""Grouped queries: a unit is a key/value head with all its query heads, and any other wiring fails."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import kprune
from kprune.checkpoint import check_saveable, load, save
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.masks import masked
from kprune.models.surgery import keep_units, select_inputs, select_outputs

HEAD = 8
SHAPE = dict(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=3,
    head_dim=HEAD,
    intermediate_size=16,
    initializer_range=0.3,
)


def tiny(family="mistral", **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(SHAPE | settings))).eval()


def ids():
    return torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(0))


def wired(model, query, key):
    """Cut the first attention to these query and key heads, by hand."""
    attention = model.model.layers[0].self_attn
    rows = {
        name: torch.cat([torch.arange(h * HEAD, (h + 1) * HEAD) for h in heads])
        for name, heads in (("q", query), ("k", key))
    }
    select_outputs(attention.q_proj, rows["q"])
    select_inputs(attention.o_proj, rows["q"])
    for module in (attention.k_proj, attention.v_proj):
        select_outputs(module, rows["k"])
    return model


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_query_heads_of_another_group_are_told_from_ones_own(family, attention):
    """Groups 0 and 2 are kept, of two query heads each: 0, 1, 4 and 5."""
    model = tiny(family)
    model.set_attn_implementation(attention)
    view = view_of(model)
    assert [block.units for block in view.of_kind("heads")] == [3, 3]
    masks = [torch.ones(block.units) for block in view.blocks]
    masks[0][1] = 0
    with masked(view, masks):
        expected = model(ids()).logits
    scale = expected.abs().max()
    ours = tiny(family)
    keep_units(view_of(ours).blocks[0], torch.tensor([0, 2]))
    for right in (ours, wired(tiny(family), [0, 1, 4, 5], [0, 2])):
        right.set_attn_implementation(attention)
        assert (right(ids()).logits - expected).abs().max() < 1e-5 * scale
    # As many heads, so that nothing fails but the answer: query heads 2 and 4 read the keys of groups 0 and 2.
    for query in ([0, 2, 4, 5], [0, 1, 2, 4], [4, 5, 0, 1]):
        wrong = wired(tiny(family), query, [0, 2])
        wrong.set_attn_implementation(attention)
        assert (wrong(ids()).logits - expected).abs().max() > 1e-2 * scale, query


@pytest.mark.parametrize(
    "query, key, message",
    [
        ([0, 1, 4], [0, 2], "o_proj has 24 columns.*a key head with all its query heads.*whole units"),
        ([0], [0], "o_proj has 8 columns.*a key head with all its query heads.*whole units"),
        ([0, 1, 2, 3], [0], "k_proj has 8 rows.*a key head with all its query heads.*whole units"),
        ([0, 1], [0, 2], "k_proj has 16 rows.*a key head with all its query heads.*whole units"),
    ],
)
def test_an_uneven_number_of_query_heads_is_refused(query, key, message, tmp_path):
    model = wired(tiny(), query, key)
    for work in (
        lambda: kprune.prune(model, [{"input_ids": ids()}], params_reduction=0.2),
        lambda: save(model, tmp_path / "model"),
        lambda: check_saveable(model),
    ):
        with pytest.raises(UserError, match=f"layers.0.self_attn.{message}"):
            work()
    assert not (tmp_path / "model").exists()


def test_a_folder_of_an_uneven_number_is_refused(tmp_path):
    """Sizes and weights agree, and still it is no model that kprune writes."""
    model = tiny()
    keep_units(view_of(model).blocks[0], torch.tensor([0, 2]))
    folder = save(model, tmp_path / "model")
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    path = "layers.0.self_attn"
    config["kprune"]["modules"] |= {f"{path}.q_proj": [32, 24], f"{path}.o_proj": [24, 32]}
    weights[f"model.{path}.q_proj.weight"] = weights[f"model.{path}.q_proj.weight"][:24].clone()
    weights[f"model.{path}.o_proj.weight"] = weights[f"model.{path}.o_proj.weight"][:, :24].clone()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="o_proj has 24 columns.*a key head with all its query heads"):
        load(folder)


@pytest.mark.parametrize(
    "method", ["kprune", "kprune_plus_fast", "wanda_sp", "llm_pruner", "oscar", "magnitude", "random"]
)
def test_every_method_removes_whole_groups(method):
    """Rows of queries, keys and values and columns of the output, by the groups that are kept."""
    model = tiny(intermediate_size=4)
    outcome = kprune.prune(model, [{"input_ids": ids()}], params_reduction=0.5, method=method)
    assert sum(outcome.kept_heads) in range(1, 6)
    for layer, groups in zip(outcome.model.model.layers, outcome.kept_heads, strict=True):
        if groups:
            attention = layer.self_attn
            rows = [module.weight.shape[0] for module in (attention.q_proj, attention.k_proj, attention.v_proj)]
            assert rows == [2 * HEAD * groups, HEAD * groups, HEAD * groups]
            assert attention.o_proj.weight.shape[1] == 2 * HEAD * groups
