"""What every baseline must do, K-prune's own tests aside."""

import copy

import pytest
import torch
from tiny import FAMILIES, HEADS, assert_less_than_a_head_over, tiny_batch, tiny_labelled, tiny_model

from baselines.kwon import Kwon
from baselines.magnitude import squared_weights
from baselines.random import Random
from kprune.budgets import FlopsBudget
from kprune.checkpoint.dense import densified
from kprune.contract import Job, PruningData
from kprune.data import CalibrationSet
from kprune.methods.registry import find_method
from kprune.models import view_of
from kprune.models.flops import flops_reduction
from kprune.models.masks import masked
from kprune.objectives import objective_of

NAMES = ("kwon", "kcm", "wanda_sp", "flap", "oscar", "magnitude", "random")
# Every method with every head and with every family.
TRIPLES = [
    (name, head, FAMILIES[(i + j) % len(FAMILIES)]) for i, name in enumerate(NAMES) for j, head in enumerate(HEADS)
]


class WidelyPadded(CalibrationSet):
    """Batches with five columns of padding more than they need."""

    def batches(self, by_length=True):
        batches = super().batches(by_length)
        for batch in batches:
            for key, filler in (("input_ids", self.pad_token_id), ("attention_mask", 0)):
                batch[key] = torch.nn.functional.pad(batch[key], (0, 5), value=filler)
            if isinstance(self.examples[0]["label"], list) and -100 in self.examples[0]["label"]:
                batch["labels"] = torch.nn.functional.pad(batch["labels"], (0, 5), value=-100)
        return batches


def prune(name, model, reduction, data=None, head="classification"):
    torch.manual_seed(0)
    data = data or PruningData(tiny_labelled(head, examples=24))
    return find_method(name).prune(Job(model, objective_of(model), data, FlopsBudget(reduction, 8.0)))


def same(one, two):
    assert one.plan.kept == two.plan.kept and one.details == two.details
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


@pytest.mark.parametrize("name, head, family", TRIPLES)
def test_the_budget_is_met_by_less_than_a_head(name, head, family):
    model = tiny_model(family, head, dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    data = PruningData(tiny_labelled(head, examples=12))
    for reduction in (0.3, 0.6, 0.9):
        if reduction > find_method(name).reach(model, 8.0):
            continue
        outcome = prune(name, model, reduction, data, head)
        assert_less_than_a_head_over(outcome, model, reduction)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("family", ("bert", "distilbert"))
@pytest.mark.parametrize("name", (*NAMES, "shortgpt"))
def test_masked_is_physically_pruned(name, family):
    """The same weights at their places in the stock model, zeros elsewhere, are the same function."""
    model, batch = tiny_model(family), tiny_batch()
    outcome = prune(name, model, 0.35)
    found = outcome.model(**batch).logits
    wide = densified(outcome.model, outcome.plan)
    torch.testing.assert_close(found, wide(**batch).logits, rtol=1e-9, atol=1e-9)
    assert (found - model(**batch).logits).abs().max() > 1e-2
    if name in ("wanda_sp", "magnitude", "random"):  # whose weights stay as they were
        view = view_of(model)
        masks = [torch.zeros(block.units, dtype=torch.float64) for block in view.blocks]
        for mask, units in zip(masks, outcome.plan.kept.values(), strict=True):
            mask[list(units)] = 1
        with masked(view, masks):
            torch.testing.assert_close(found, model(**batch).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_identical(name):
    same(*(prune(name, tiny_model(dtype=torch.float32), 0.35) for _ in range(2)))


@pytest.mark.parametrize("name", NAMES)
def test_shared_data_give_the_same_as_fresh_ones(name):
    """A cell that finds what an earlier reduction measured is the cell run alone; nothing shared is changed."""
    model, shared = tiny_model(dtype=torch.float32), PruningData(tiny_labelled(examples=24))
    for reduction in (0.2, 0.35, 0.2):
        outcome = prune(name, model, reduction, shared)
        alone = prune(name, model, reduction)
        same(outcome, alone)
        assert outcome.seconds_by_stage.keys() == alone.seconds_by_stage.keys()
    assert len(shared.shared) == {"kwon": 1, "kcm": 2, "flap": 1}.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("head", HEADS)
def test_padding_makes_no_difference(name, head):
    model, plain = tiny_model(head=head), tiny_labelled(head, examples=24)
    padded = WidelyPadded(plain.examples, plain.batch_size, plain.pad_token_id)
    one, two = (prune(name, model, 0.35, PruningData(c), head) for c in (plain, padded))
    assert one.plan.kept == two.plan.kept
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ("kwon", "wanda_sp", "flap", "oscar", "magnitude", "random"))
def test_a_pruned_model_is_pruned_again(name):
    once = prune(name, tiny_model(dtype=torch.float32), 0.9).model
    twice = prune(name, once, 0.5)
    assert flops_reduction(view_of(once), view_of(twice.model), 8.0) >= 0.5
    assert torch.isfinite(twice.model(**tiny_batch())[0]).all()


def test_only_kwon_asks_for_labels():
    assert [name for name in NAMES if find_method(name).needs] == ["kwon"] and find_method("kwon").needs == {"labels"}


def test_kwon_tunes_every_mask_but_those_of_the_first_heads():
    blocks = view_of(tiny_model()).blocks
    assert [Kwon.tunes(s) for s in blocks] == [False, True, True, True, True, True]


def test_kwon_records_how_the_tuning_went():
    outcome = prune("kwon", tiny_model(), 0.5)
    assert outcome.details.keys() == {"mask_tuning_stopped", "largest_scale"}
    assert list(outcome.seconds_by_stage) == ["fisher", "mask_search", "rearrangement", "mask_tuning"]


def test_magnitude_is_the_squares_of_all_weights_a_unit_owns():
    model = tiny_model()
    layer = model.bert.encoder.layer[1]
    heads, neurons = view_of(model).blocks[2:4]
    attention, rows = layer.attention, slice(16, 24)
    head = sum(
        linear.weight[rows].square().sum()
        for linear in (attention.self.query, attention.self.key, attention.self.value)
    )
    head = head + attention.output.dense.weight[:, rows].square().sum()
    neuron = layer.intermediate.dense.weight[5].square().sum() + layer.output.dense.weight[:, 5].square().sum()
    torch.testing.assert_close(squared_weights(heads)[2], head)
    torch.testing.assert_close(squared_weights(neurons)[5], neuron)


def test_magnitude_keeps_the_largest_per_flop():
    model = tiny_model()
    kept, blocks = list(prune("magnitude", model, 0.5).plan.kept.values()), view_of(model).blocks
    per_flop = [squared_weights(s) / s.unit_flops(8.0) for s in blocks]
    lowest_kept = min(score[units].min() for score, units in zip(per_flop, kept, strict=True) if units)
    # Better ones are passed over where they no longer fit: heads alone, since all neurons cost the same.
    passed_over = [
        (s.kind, u)
        for s, score, units in zip(blocks, per_flop, kept, strict=True)
        for u in range(s.units)
        if u not in units and score[u] > lowest_kept
    ]
    assert all(kind == "heads" for kind, _ in passed_over)
    assert squared_weights(blocks[0]).min() > squared_weights(blocks[1]).max(), "FLOPs make no difference"


def test_magnitude_removes_units_without_weights_first():
    model = tiny_model()
    blocks = view_of(model).blocks
    with torch.no_grad():
        for linear in blocks[2].inputs:
            linear.weight[8:16] = 0
        blocks[2].output.weight[:, 8:16] = 0
        blocks[5].inputs[0].weight[:10] = 0
        blocks[5].output.weight[:, :10] = 0
    kept = prune("magnitude", model, 0.3).plan.kept
    assert 1 not in kept["1.attention"] and min(kept["2.ffn"]) >= 10


def test_random_follows_the_datas_seed_and_nothing_else():
    model, objective, calibration = tiny_model(), objective_of(tiny_model()), tiny_labelled()
    kept = []
    for seed in (0, 0, 1):
        data = PruningData(calibration, seed=seed)
        kept.append(Random().prune(Job(model, objective, data, FlopsBudget(0.5, 8.0))).plan.kept)
    assert kept[0] == kept[1] != kept[2]
    before = torch.get_rng_state()
    Random().prune(Job(model, objective, data, FlopsBudget(0.5, 8.0)))
    assert torch.equal(torch.get_rng_state(), before)
