"""ShortGPT: which layers go, and that they go whole."""

import copy

import pytest
import torch
from decoders import outputs, prune, tiny_decoder
from tiny import tiny_batch, tiny_calibration, tiny_model
from transformers import AutoConfig, AutoModelForSequenceClassification

import kprune
from baselines.shortgpt import ShortGPT, block_influence, least_influential
from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.errors import OutOfReach, UserError
from kprune.methods.registry import build
from kprune.models import view_of
from kprune.models.flops import params_reduction
from kprune.models.surgery import keep_layers


@torch.no_grad()
def by_hidden_states(model, calibration, layers):
    """1 − cos between what transformers itself gives before and behind a layer, token by token."""
    found = [[] for _ in layers]
    for batch in calibration.batches():
        states = model(**batch, output_hidden_states=True).hidden_states
        for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
            for values, layer in zip(found, layers, strict=True):
                for token in range(length):
                    x, y = states[layer][row, token], states[layer + 1][row, token]
                    values.append(1 - (x @ y / (x.norm() * y.norm())).item())
    return [sum(values) / len(values) for values in found]


@pytest.mark.parametrize(
    "model, layers", [(tiny_model(), (0, 1, 2)), (tiny_decoder(), (0, 1)), (tiny_decoder("opt"), (0, 1))]
)
def test_influence_is_how_far_the_layers_turn_their_input(model, layers):
    """Of a decoder's last layer, transformers gives the output behind the last norm."""
    calibration = tiny_calibration()
    found = block_influence(view_of(model), calibration)
    assert [found[layer] for layer in layers] == pytest.approx(by_hidden_states(model, calibration, layers), rel=1e-6)


def test_a_layer_that_does_nothing_goes_first():
    model, batch = tiny_decoder(), tiny_batch()
    with torch.no_grad():
        for block in view_of(model).blocks[2:4]:
            block.output.weight.zero_()
    outcome = prune("shortgpt", model, ParametersBudget(0.3))
    assert outcome.plan.layers_left_out == (1,) and outcome.details["block_influence"][1] == pytest.approx(0, abs=1e-9)
    assert outcome.kept_heads == [2, 0, 2] and len(view_of(outcome.model).layers) == 2
    torch.testing.assert_close(outputs(outcome.model, batch), outputs(model, batch))


@pytest.mark.parametrize("make", [tiny_model, tiny_decoder])
def test_layers_go_whole(make):
    model, batch = make(), tiny_batch()
    outcome = prune("shortgpt", model, FlopsBudget(0.5, 8.0))
    (stays,) = {0, 1, 2} - set(outcome.plan.layers_left_out)
    assert stays == max(range(3), key=lambda layer: outcome.details["block_influence"][layer])
    shorter = copy.deepcopy(model)
    keep_layers(view_of(shorter), [stays])
    torch.testing.assert_close(outcome.model(**batch)[0], shorter(**batch)[0])


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_layers_that_stay_are_alike_whatever_a_config_can_say_of_fewer_heads(family, tmp_path):
    """Of a GPT-2's heads none may go if all layers are to be alike: with these alone, they cost more than is left."""
    model, batches = tiny_decoder(family), tiny_calibration().batches()
    with pytest.raises(OutOfReach, match="keeps at least 4 heads"):
        kprune.prune(model, batches, 0.5, "kprune", uniform=True)
    outcome = kprune.prune(model, batches, 0.5, "shortgpt", uniform=True)
    outcome.save(tmp_path, format="uniform")
    stock = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(outputs(stock, tiny_batch()), outputs(outcome.model, tiny_batch()))
    assert len(view_of(stock).layers) == 1


@pytest.mark.parametrize("method", ["shortgpt", "dynabert_d"])
def test_layers_that_compute_by_their_number_stay(method):
    """A GPT-2 may divide the scores of attention by the number of the layer, which a loaded model counts anew."""
    model = tiny_decoder("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UserError, match="scale_attn_by_inverse_layer_idx=True, so that a layer in another place"):
        build(method, {}).check(model, FlopsBudget(0.3, 8.0))
    for other, which in (("kprune_plus_fast", model), ("dynabert_w", model), (method, tiny_decoder("gpt2"))):
        build(other, {}).check(which, FlopsBudget(0.3, 8.0))


def test_a_lowest_layer_that_is_built_otherwise_stays(tmp_path):
    """A ModernBERT's has no norm before its attention: a layer from above it in its place would not load again."""
    torch.manual_seed(0)
    shape = dict(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, initializer_range=0.3
    )
    words = dict(vocab_size=99, pad_token_id=1, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("modernbert", **shape, **words)).eval()
    with torch.no_grad():
        for block in view_of(model).blocks[:2]:
            block.output.weight.mul_(1e-3)
    outcome = kprune.prune(model, [tiny_batch()], method="shortgpt", params_reduction=0.5)
    influence = outcome.details["block_influence"]
    assert influence[0] == min(influence) and outcome.plan.layers_left_out == (1, 2)
    outcome.save(tmp_path / "small")
    with torch.no_grad():
        torch.testing.assert_close(
            kprune.load(tmp_path / "small")(**tiny_batch()).logits, outcome.model(**tiny_batch()).logits
        )


def test_as_few_layers_as_the_budget_asks_for():
    assert least_influential([0.2, 0.1, 0.3, 0.1], [5, 5, 5, 5], 15) == [1]
    assert least_influential([0.2, 0.1, 0.3, 0.1], [5, 5, 5, 5], 14) == [1, 3]
    assert least_influential([0.2, 0.1, 0.3, 0.1], [5, 5, 5, 5], 5) == [0, 1, 3]


def test_one_layer_stays():
    model, batches = tiny_decoder(), tiny_calibration().batches()
    with pytest.raises(
        OutOfReach, match="method shortgpt keeps a layer at least, and the budget leaves less: ask for less"
    ):
        kprune.prune(model, batches, method="shortgpt", params_reduction=0.7)
    with pytest.raises(OutOfReach, match=r"method shortgpt reaches a FLOPs reduction of 0\.667"):
        kprune.prune(model, batches, method="shortgpt", flops_reduction=0.7)
    outcome = prune("shortgpt", model, FlopsBudget(ShortGPT().reach(model, 8.0), 8.0))
    assert len(outcome.plan.layers_left_out) == 2
    assert params_reduction(view_of(model), view_of(outcome.model)) == pytest.approx(2 / 3)
