"""FLAP: the fluctuation score by its definition, and the output bias that makes up for what is constant."""

import pytest
import torch
from decoders import block_features, outputs, prune, tiny_decoder
from tiny import tiny_batch, tiny_calibration, tiny_model

import kprune
from baselines.flap import FLAP, compensate, fluctuations, with_output_biases
from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.errors import OutOfReach, UserError
from kprune.models import view_of
from kprune.models.flops import layer_parameters, params_reduction
from kprune.models.masks import masked
from kprune.models.surgery import input_weight, keep_units, output_weight


def scores(block, features, squared):
    """Per unit, the mean of its columns' standardised Var(x_j) ‖W_:j‖², number by number."""
    columns = []
    for j in range(features.shape[1]):
        x = features[:, j].tolist()
        mean = sum(x) / len(x)
        score = sum((v - mean) ** 2 for v in x) / len(x) * sum(w**2 for w in output_weight(block)[:, j].tolist())
        columns.append(score**2 if squared else score)
    mean = sum(columns) / len(columns)
    deviation = (sum((c - mean) ** 2 for c in columns) / (len(columns) - 1)) ** 0.5
    z = [(c - mean) / deviation for c in columns]
    return [sum(z[u : u + block.width]) / block.width for u in range(0, len(z), block.width)]


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("make", [tiny_decoder, tiny_model])
def test_scores_are_those_of_the_definition(make, squared):
    model, calibration = make(), tiny_calibration()
    view, method = view_of(model), FLAP(squared_heads=squared)
    measured = fluctuations(view, calibration)
    for index, (block, of) in enumerate(zip(view.blocks, measured, strict=True)):
        features = block_features(model, [], index, calibration.batches())
        torch.testing.assert_close(of.mean, features.mean(dim=0))
        expected = scores(block, features, squared and block.kind == "heads")
        assert method.scores(block, of).tolist() == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_the_order_over_all_blocks_meets_the_budget():
    """No unit that is kept scores less than one that is not, but for heads that no longer fitted."""
    model, calibration = tiny_model(), tiny_calibration()
    outcome = prune("flap", model, FlopsBudget(0.1, 8.0), calibration)
    view = view_of(model)
    of = fluctuations(view, calibration)
    found = [FLAP().scores(block, fluctuation).tolist() for block, fluctuation in zip(view.blocks, of, strict=True)]
    kept = list(outcome.plan.kept.values())
    lowest = min(scores[unit] for scores, units in zip(found, kept, strict=True) for unit in units)
    passed_over = [
        block.kind
        for block, scores, units in zip(view.blocks, found, kept, strict=True)
        for unit in range(block.units)
        if unit not in units and scores[unit] > lowest
    ]
    assert set(passed_over) <= {"heads"} and len(set(map(len, kept[1::2]))) > 1, "widths follow the scores"


@torch.no_grad()
def with_constants(model):
    """A model in which a head of each attention and ten neurons of each feed-forward network have constant features."""
    for block in view_of(model).blocks:
        units = 1 if block.kind == "heads" else 10
        for rows, module in zip(block.site.inputs, block.inputs, strict=True):
            per_part = input_weight(module).unflatten(0, (rows.parts, block.units, -1))
            per_part[-1 if rows.parts > 1 else slice(None), -units:] = 0
    return model


@pytest.mark.parametrize("make", [tiny_model, lambda: tiny_decoder("gpt2"), lambda: tiny_decoder("opt")])
@torch.no_grad()
def test_what_is_constant_is_made_up_for_exactly(make):
    model, batch = with_constants(make()), tiny_batch()
    view, real = view_of(model), batch["attention_mask"].bool()

    def read():
        logits = model(**batch)[0]
        return logits[real] if logits.dim() == 3 else logits

    measured, expected = fluctuations(view, tiny_calibration()), read()
    masks = []
    for block, of in zip(view.blocks, measured, strict=True):
        units = 1 if block.kind == "heads" else 10
        masks.append(torch.arange(block.units) < block.units - units)
        found = FLAP().scores(block, of)
        assert found[~masks[-1]].max() <= found[masks[-1]].min(), "the least of their block"
    with masked(view, masks):
        assert (read() - expected).abs().max() > 1e-2, "they do something"
    for block, mask, of in zip(view.blocks, masks, measured, strict=True):
        compensate(block, mask, of.mean)
        keep_units(block, mask.nonzero()[:, 0])
    torch.testing.assert_close(read(), expected, rtol=1e-9, atol=1e-9)


def test_a_models_biases_are_what_was_removed_on_average():
    """Of a Llama, which had none: in the lowest block, the mean of what it adds stays the same."""
    model, calibration = tiny_decoder(), tiny_calibration()
    outcome = prune("flap", model, ParametersBudget(0.6), calibration)
    assert len(outcome.plan.kept["0.attention"]) < 2
    block = view_of(outcome.model).blocks[0]
    whole = block_features(model, [], 0, calibration.batches()).mean(dim=0)
    dense = output_weight(view_of(model).blocks[0])
    left = torch.cat(
        [torch.arange(u * 16, u * 16 + 16) for u in outcome.plan.kept["0.attention"]] or [torch.tensor([])]
    )
    narrow = dense[:, left.long()] @ whole[left.long()]
    torch.testing.assert_close(narrow + block.bias(), dense @ whole, rtol=1e-9, atol=1e-9)


def test_added_biases_change_nothing_and_count():
    model, batch = tiny_decoder(), tiny_batch()
    biased = with_output_biases(tiny_decoder())
    torch.testing.assert_close(outputs(biased, batch), outputs(model, batch), rtol=0, atol=0)
    assert biased.config.attention_bias and biased.config.mlp_bias and not model.config.attention_bias
    # Of each layer: queries, keys and values, their output; gate and up, their output.
    added = 3 * (32 + 16 + 16 + 32 + 48 + 48 + 32)
    assert layer_parameters(view_of(biased)) == layer_parameters(view_of(model)) + added
    for share in (0.1, 0.2, 0.4):
        outcome = prune("flap", model, ParametersBudget(share))
        assert share <= params_reduction(view_of(model), view_of(outcome.model)) < share + 0.02
    everything = 1 - 3 * 128 / layer_parameters(view_of(model))
    with pytest.raises(OutOfReach, match="adds output biases, which take more than the budget leaves: ask for less"):
        prune("flap", model, ParametersBudget(everything + 0.001))


def test_a_model_with_biases_keeps_its_config():
    model = tiny_decoder("opt")
    outcome = prune("flap", model, ParametersBudget(0.4))
    names = {name for name, _ in model.named_parameters()}
    assert {name for name, _ in outcome.model.named_parameters()} == names


@pytest.mark.parametrize("family, path", [("mistral", "self_attn.o_proj"), ("qwen2", "self_attn.o_proj")])
def test_a_family_that_can_hold_no_output_bias_is_told(family, path):
    model, batches = tiny_decoder(family), tiny_calibration().batches()
    with pytest.raises(
        UserError, match=f"method flap .* the family {family} can't have one at {path}: use wanda_sp"
    ) as error:
        kprune.prune(model, batches, method="flap", params_reduction=0.4)
    assert "\n" not in str(error.value)


def test_a_pruned_llama_is_pruned_again():
    once = kprune.prune(tiny_decoder(), tiny_calibration().batches(), method="flap", params_reduction=0.4).model
    twice = kprune.prune(once, tiny_calibration().batches(), method="flap", params_reduction=0.4)
    assert twice.details["params_reduction"] >= 0.4
    assert torch.isfinite(outputs(twice.model, tiny_batch())).all()


def test_features_far_from_zero_keep_their_variance():
    model, calibration = tiny_decoder("gpt2"), tiny_calibration()
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.bias += 1e6
    found = fluctuations(view_of(model), calibration)[1]
    features = block_features(model, [], 1, calibration.batches())
    torch.testing.assert_close(found.variance, features.var(dim=0, correction=0), rtol=1e-6, atol=0)
