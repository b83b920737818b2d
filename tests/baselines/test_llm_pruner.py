"""LLM-Pruner: scores against differences of the loss, and which layers lose what."""

import pytest
import torch
import torch.nn.functional as F
from decoders import prune, tiny_decoder
from tiny import tiny_calibration, tiny_model

import kprune
from baselines.llm_pruner import LLMPruner, taylor_scores
from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.data import CalibrationSet
from kprune.errors import OutOfReach, UserError
from kprune.models import view_of

CHANGE = 1e-5


@torch.no_grad()
def losses(model, calibration):
    """The cross-entropy of every next token, by example."""
    (batch,) = calibration.batches()
    logits, ids = model(**batch).logits, batch["input_ids"]
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    return [
        F.cross_entropy(logits[row, : length - 1], ids[row, 1:length], reduction="none")
        for row, length in enumerate(lengths)
    ]


def members(block, unit):
    """(weight, index) of every number that a unit owns, of a group of a tiny Llama two query heads and a key and a value head."""
    hidden = range(block.hidden_size)
    for module in block.inputs:
        own = len(module.weight) // block.units
        yield from ((module.weight, (r, c)) for r in range(unit * own, (unit + 1) * own) for c in hidden)
    columns = range(unit * block.width, (unit + 1) * block.width)
    yield from ((block.output.weight, (row, column)) for row in hidden for column in columns)


def gradients(model, calibration, weight, index):
    """w ∂/∂w of the loss of all tokens, and w² times the mean square of the derivatives of single examples' losses."""
    value = weight[index].item()
    sides = []
    with torch.no_grad():
        for sign in (1, -1):
            weight[index] = value + sign * CHANGE
            sides.append(losses(model, calibration))
        weight[index] = value
    whole = (torch.cat(sides[0]).mean() - torch.cat(sides[1]).mean()).item() / (2 * CHANGE)
    single = [(a.mean() - b.mean()).item() / (2 * CHANGE) for a, b in zip(*sides, strict=True)]
    return value * whole, value**2 * sum(g**2 for g in single) / len(single)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("block, unit", [(3, 17), (4, 5)])
def test_a_units_score_is_that_of_finite_differences(block, unit, mixed):
    """Of an OPT, which computes all in float64; a Llama's norms are float32."""
    model, calibration = tiny_decoder("opt", num_attention_heads=16).requires_grad_(False), tiny_calibration(examples=2)
    view = view_of(model)
    found = taylor_scores(view, calibration, mixed)[block][unit].item()
    expected = 0.0
    for weight, index in members(view.blocks[block], unit):
        first, second = gradients(model, calibration, weight, index)
        expected += abs(first - second / 2) if mixed else abs(first)
    assert found == pytest.approx(expected, rel=1e-5)


class ExactNorm(torch.nn.Module):
    """A Llama's norm in the precision of its input, where transformers' own has float32, too coarse for small differences."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_groups_score_is_that_of_finite_differences(mixed):
    """Two query heads with the key and the value head that they share."""
    model = tiny_decoder(hidden_size=8, intermediate_size=6).requires_grad_(False)
    for name, module in list(model.named_modules()):
        if name.endswith("norm"):
            model.set_submodule(name, ExactNorm(module))
    calibration = tiny_calibration(examples=2)
    view = view_of(model)
    block = view.blocks[2]
    found = taylor_scores(view, calibration, mixed)[2].tolist()
    for unit in range(2):
        places = list(members(block, unit))
        assert len(places) == 8 * (4 + 2 + 2 + 4)
        terms = [gradients(model, calibration, weight, index) for weight, index in places]
        expected = sum(abs(first - second / 2) if mixed else abs(first) for first, second in terms)
        assert found[unit] == pytest.approx(expected, rel=1e-5)


def test_a_groups_score_is_the_sum_over_its_query_heads_and_its_key_head():
    model, calibration = tiny_decoder(), tiny_calibration(examples=2)
    block = view_of(model).blocks[2]
    weights = [module.weight for module in (*block.inputs, block.output)]
    ids = [torch.tensor([example["input_ids"]]) for example in calibration.examples]
    loss = torch.cat([F.cross_entropy(model(i).logits[0, :-1], i[0, 1:], reduction="none") for i in ids]).mean()
    products = [(w * g).abs() for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True)]
    expected = []
    for unit in range(2):
        places = [
            (next(i for i, w in enumerate(weights) if w is weight), index) for weight, index in members(block, unit)
        ]
        assert len(places) == 32 * (16 + 8 + 8 + 16)
        expected.append(sum(products[place][index].item() for place, index in places))
    found = taylor_scores(view_of(model.requires_grad_(False)), calibration, False)[2]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("taylor", ["param_first", "param_mix"])
def test_padding_and_batches_make_no_difference(taylor):
    model, rows = tiny_decoder("gpt2"), tiny_calibration(examples=9)
    plans = [
        prune("llm_pruner", model, ParametersBudget(0.4), CalibrationSet(examples, size, 1), taylor=taylor).plan
        for examples, size in ((rows.examples, 4), (rows.examples[::-1], 1))
    ]
    assert plans[0] == plans[1]


def test_layers_at_both_ends_are_spared_and_the_others_lose_the_same():
    model = tiny_decoder(num_hidden_layers=8)
    outcome = prune("llm_pruner", model, ParametersBudget(0.3), spared_bottom=0.25, spared_top=0.125)
    assert outcome.kept_heads[:2] == [2, 2] and outcome.kept_neurons[:2] == [48, 48]
    assert outcome.kept_heads[-1] == 2 and outcome.kept_neurons[-1] == 48
    assert (
        max(outcome.kept_neurons[2:-1]) - min(outcome.kept_neurons[2:-1]) <= 1 and max(outcome.kept_neurons[2:-1]) < 48
    )


@pytest.mark.parametrize(
    "depth, layers", [(32, {0, 1, 2, 3, 30, 31}), (30, {0, 1, 2, 3, 28, 29}), (12, {0, 1, 11}), (3, set())]
)
def test_as_many_are_spared_as_in_the_authors_code(depth, layers):
    view = view_of(tiny_decoder(num_hidden_layers=depth, hidden_size=4, intermediate_size=2))
    assert LLMPruner().spared(view) - {1} == layers - {1}


def test_the_units_that_the_loss_feels_most_stay():
    model, calibration = tiny_decoder(), tiny_calibration()
    outcome = prune("llm_pruner", model, ParametersBudget(0.4), calibration)
    scores = taylor_scores(view_of(tiny_decoder().requires_grad_(False)), calibration, False)
    for kept, score in zip(outcome.plan.kept.values(), scores, strict=True):
        assert kept == sorted(score.argsort(descending=True)[: len(kept)].tolist())


def test_what_is_measured_serves_every_budget():
    model, calibration = tiny_decoder(), tiny_calibration()
    data = kprune.contract.PruningData(calibration)
    for share in (0.2, 0.5):
        shared = prune("llm_pruner", model, ParametersBudget(share), data=data)
        assert shared.plan == prune("llm_pruner", model, ParametersBudget(share), calibration).plan
    assert len(data.shared) == 1


def test_an_encoder_is_told_before_anything_is_done():
    with pytest.raises(
        UserError, match="with a head for causal_lm alone, and this is a BertForSequenceClassification: use"
    ) as error:
        kprune.prune(tiny_model(), tiny_calibration().batches(), 0.5, method="llm_pruner")
    assert "\n" not in str(error.value)


def test_more_than_the_layers_that_are_not_spared_is_told():
    model, batches = tiny_decoder(), tiny_calibration().batches()
    method = LLMPruner(spared_bottom=0.3, spared_top=0.3)
    with pytest.raises(OutOfReach, match="the blocks that stay whole cost more than the budget leaves"):
        kprune.prune(model, batches, method=method, params_reduction=0.4)
    with pytest.raises(OutOfReach, match=r"method llm_pruner reaches a FLOPs reduction of 0\.333"):
        kprune.prune(model, batches, 0.4, method=method)
    assert method.reach(model, 8.0) == pytest.approx(1 / 3)
    prune("llm_pruner", model, FlopsBudget(0.33, 8.0), spared_bottom=0.3, spared_top=0.3)


@pytest.mark.parametrize(
    "settings", [{"spared_bottom": 0.6, "spared_top": 0.4}, {"spared_top": -0.1}, {"spared_bottom": 2}]
)
def test_sparing_all_layers_is_told(settings):
    with pytest.raises(UserError, match="spare all layers, or are no shares"):
        LLMPruner(**settings)


def test_texts_of_one_token_are_told():
    rows = CalibrationSet([{"input_ids": [5]}, {"input_ids": [7]}], 2, 1)
    with pytest.raises(UserError, match="no next token to predict: give longer texts"):
        prune("llm_pruner", tiny_decoder(), ParametersBudget(0.4), rows)
