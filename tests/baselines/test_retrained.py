"""What holds for every retrained method."""

import copy
import json
import shutil
from dataclasses import replace
from functools import cache

import pytest
import torch
from retrained import RECIPE, RETRAINED, kill_before
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, head_share, tiny_batch, tiny_model

from baselines.retrained import cofi
from baselines.retrained.finetuned import FineTuned
from kprune import checkpoint
from kprune.budgets import FlopsBudget
from kprune.contract import Job
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.registry import build, find_method
from kprune.models import view_of
from kprune.models.flops import flops_reduction
from kprune.objectives import objective_of
from kprune.training import Training


def prune(name, data, family="bert", head="classification", reduction=0.7):
    model = tiny_model(family, head, dtype=torch.float32)
    return RETRAINED[name].prune(Job(model, objective_of(model), data, FlopsBudget(reduction, 8.0)))


@pytest.fixture(scope="module")
def finished(data_for, tmp_path_factory):
    """Prune once by each method: finished(name) is the outcome, and the folder of the states of its trainings."""

    @cache
    def once(name):
        folder = tmp_path_factory.mktemp(name)
        return prune(name, data_for(workspace=folder)), folder

    return once


@pytest.fixture
def states(finished, tmp_path):
    """A copy of the states of a method's trainings: states(name)."""
    return lambda name: shutil.copytree(finished(name)[1], tmp_path / "states")


def weights(outcome):
    return outcome.model.state_dict()


def stored_seconds(state):
    """What the state of a training says that it took."""
    with safe_open(state, framework="pt") as file:
        return json.loads(file.metadata()["training"])["seconds"]


def store_seconds(state, seconds):
    with safe_open(state, framework="pt") as file:
        content = json.loads(file.metadata()["training"])
    save_file(load_file(state), state, {"training": json.dumps(content | {"seconds": seconds})})


@pytest.mark.parametrize("name", RETRAINED)
@pytest.mark.parametrize(
    "family, head", [*zip(FAMILIES, ("classification", "regression", "span", "span"), strict=True)]
)
def test_every_family_and_head(name, family, head, data_for):
    """The model passed in is left as it was; what comes out is finite, counted right and on record."""
    data, model = data_for(head), tiny_model(family, head, dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    outcome = RETRAINED[name].prune(Job(model, objective_of(model), data, FlopsBudget(0.7, 8.0)))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.isfinite(outcome.model(**tiny_batch())[0]).all()
    assert len(outcome.kept_heads) == len(outcome.kept_neurons) == 3
    assert not outcome.model.training
    assert sum(outcome.seconds_by_stage.values()) > 0
    examples = 43 if name == "kprune_finetuned" else 48  # a tenth is held out
    for stage in outcome.details["training"].values():
        assert stage == {"steps": 3 * stage["epochs"], "epochs": stage["epochs"], "examples": examples, "capped": False}


@pytest.mark.parametrize("name", RETRAINED)
def test_products_in_bfloat16_leave_float32_weights(name, data_for, finished):
    model, budget = tiny_model(dtype=torch.float32), FlopsBudget(0.7, 8.0)
    half = replace(RETRAINED[name], bf16=True).prune(Job(model, objective_of(model), data_for(), budget))
    logits = half.model(**tiny_batch()).logits
    assert torch.isfinite(logits).all()
    assert not RETRAINED[name].bf16 and not torch.equal(logits, finished(name)[0].model(**tiny_batch()).logits)
    assert all(value.dtype == torch.float32 for value in weights(half).values() if value.is_floating_point())


@pytest.mark.parametrize("name", ["cofi", "kprune_finetuned"])
def test_the_budget_is_met_by_less_than_a_head(name, finished):
    dense = view_of(tiny_model(dtype=torch.float32))
    pruned = view_of(finished(name)[0].model)
    assert 0.7 - 1e-9 <= flops_reduction(dense, pruned, 8.0) <= 0.7 + head_share(dense)


@pytest.mark.parametrize("name", ["dynabert_w", "dynabert_d", "cofi", "kprune_finetuned"])
def test_what_is_kept_is_what_is_there(name, data_for, finished, states, tmp_path):
    """And the model is saved and loads as the same function, whole layers dropped or not."""
    outcome = finished(name)[0]
    if name == "dynabert_d":
        outcome = prune(name, data_for(workspace=states(name)), reduction=0.8)
    sizes = [block.units for block in view_of(outcome.model).blocks]
    counts = {block: len(units) for block, units in outcome.plan.kept.items()}
    assert counts == dict(outcome.plan.units)
    gone = {f"{layer}.{site}" for layer in outcome.plan.layers_left_out for site in ("attention", "ffn")}
    assert len(gone) == 2 * (name == "dynabert_d") and not any(counts[block] for block in gone)
    assert [count for block, count in counts.items() if block not in gone] == sizes
    loaded = checkpoint.load(checkpoint.save(outcome.model, tmp_path / "model"))
    torch.testing.assert_close(loaded(**tiny_batch()).logits, outcome.model(**tiny_batch()).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", RETRAINED)
def test_a_killed_training_ends_with_the_same_weights(name, data_for, finished, tmp_path, monkeypatch):
    """Killed early in its first training and late in its last; and found finished by the next cell."""
    whole, _ = finished(name)
    kill_before((2, sum(stage["steps"] for stage in whole.details["training"].values())), monkeypatch)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prune(name, data_for(workspace=tmp_path))
    parts = prune(name, data_for(workspace=tmp_path))
    assert weights(whole).keys() == weights(parts).keys()
    assert all(torch.equal(value, weights(parts)[key]) for key, value in weights(whole).items())

    def none(run, batch):
        raise AssertionError("a finished training is not trained again")

    monkeypatch.setattr(Training, "update", none)
    again = prune(name, data_for(workspace=tmp_path))
    assert all(torch.equal(value, weights(again)[key]) for key, value in weights(whole).items())
    assert again.details["training"] == whole.details["training"]
    assert again.details["losses"] == parts.details["losses"]


def test_a_state_of_other_settings_is_not_taken(data_for, states):
    folder = states("ebert")
    prune("ebert", data_for(workspace=folder), reduction=0.6)
    assert len(list(folder.glob("ebert-*.safetensors"))) == 2


@pytest.mark.parametrize("name", RETRAINED)
def test_a_state_of_another_version_is_not_taken(name, data_for, states, monkeypatch):
    """A mended method trains again, and not on from what the old one left."""
    folder = states(name)
    before = set(folder.iterdir())
    monkeypatch.setattr(type(RETRAINED[name]), "version", 7)
    prune(name, data_for(workspace=folder))
    stages = [
        sorted(file.name.rpartition("-")[0] for file in files) for files in (before, set(folder.iterdir()) - before)
    ]
    assert stages[0] == stages[1]


@pytest.mark.parametrize("name", RETRAINED)
def test_trainings_are_done_anew_if_asked_for(name, data_for, finished, states, monkeypatch):
    """Every step again, over the states that are there; once for all reductions of one process if they share it."""
    (first, _), folder = finished(name), states(name)
    updates, update = [], Training.update
    monkeypatch.setattr(Training, "update", lambda run, batch: updates.append(1) or update(run, batch))
    files = set(folder.iterdir())
    prune(name, data_for(workspace=folder))
    assert not updates
    data = data_for(workspace=folder, anew=True)
    again = prune(name, data)
    steps = sum(stage["steps"] for stage in first.details["training"].values())
    assert len(updates) == steps and set(folder.iterdir()) == files
    assert all(torch.equal(value, weights(again)[key]) for key, value in weights(first).items())
    if name.startswith("dynabert"):
        prune(name, data, reduction=0.3)
        assert len(updates) == steps


def test_fine_tuning_is_another_version_if_its_pruner_is(monkeypatch):
    assert FineTuned().version == 2
    monkeypatch.setattr(KPrune, "version", 3)
    assert FineTuned().version == 4


def test_one_training_of_dynabert_serves_all_reductions_and_counts_in_full(data_for, tmp_path):
    data, objective = data_for(workspace=tmp_path), objective_of(tiny_model())
    model = tiny_model(dtype=torch.float32)
    small, large = (RETRAINED["dynabert_w"].prune(Job(model, objective, data, FlopsBudget(r, 8.0))) for r in (0.7, 0.2))
    assert sum(small.kept_neurons) < sum(large.kept_neurons)
    assert len(list(tmp_path.iterdir())) == 1
    for stage in ("rewiring", "width_stage"):
        assert small.seconds_by_stage[stage] == large.seconds_by_stage[stage] > 0
    (state,) = tmp_path.iterdir()
    assert 0 < stored_seconds(state) <= large.seconds_by_stage["width_stage"]
    store_seconds(state, 1000.0)  # more than any time it takes to find it
    elsewhere = RETRAINED["dynabert_w"].prune(
        Job(model, objective, data_for(workspace=tmp_path), FlopsBudget(0.2, 8.0))
    )
    assert elsewhere.seconds_by_stage["width_stage"] > 1000
    wider = RETRAINED["dynabert_d"].prune(Job(model, objective, data_for(workspace=tmp_path), FlopsBudget(0.7, 8.0)))
    assert set(wider.details["training"]) == {"width_stage", "depth_stage", "final_fine_tuning"}
    assert len(list(tmp_path.iterdir())) == 3, "the width stage is DynaBERT_w's"


@pytest.mark.parametrize("name", RETRAINED)
def test_its_entry_builds_it(name):
    method = find_method(name)
    assert method.name == name and type(method) is type(RETRAINED[name])
    with pytest.raises(UserError, match="nonsense"):
        build(name, {"nonsense": 1})


def test_fine_tuning_starts_from_kprune_as_its_own_entry_has_it():
    assert find_method("kprune_finetuned").pruner == find_method("kprune")


def test_cofis_fine_tuning_is_named_by_what_it_starts_from(data_for, states, monkeypatch):
    """A state that began from other weights is not taken up."""
    folder, extract = states("cofi"), cofi.extract

    def otherwise(model, *arguments):
        kept = extract(model, *arguments)
        model.classifier.bias.data += 1
        return kept

    monkeypatch.setattr(cofi, "extract", otherwise)
    prune("cofi", data_for(workspace=folder))
    assert len(list(folder.glob("cofi-pruning-*"))) == 1 and len(list(folder.glob("cofi-fine_tuning-*"))) == 2


def test_fine_tuning_takes_whatever_budget_its_pruner_takes(data_for):
    """Widths in whole grains, which only those are given that prune to any budget."""
    model, budget = tiny_model(dtype=torch.float32), FlopsBudget(0.6, 8.0, grain=16)
    RETRAINED["kprune_finetuned"].check(model, budget)
    with pytest.raises(UserError, match="does not round widths"):
        FineTuned(RETRAINED["ebert"]).check(model, budget)
    outcome = RETRAINED["kprune_finetuned"].prune(Job(model, objective_of(model), data_for(), budget))
    assert all(heads % 2 == 0 for heads in outcome.kept_heads) and all(n % 16 == 0 for n in outcome.kept_neurons)
    assert "fine_tuning" in outcome.seconds_by_stage


def test_fine_tuning_keeps_layers_alike_if_its_pruner_does(data_for):
    model, method = tiny_model(dtype=torch.float32), FineTuned(recipe=RECIPE)
    budget = FlopsBudget(0.2, 8.0, uniform=True)
    method.check(model, budget)
    outcome = method.prune(Job(model, objective_of(model), data_for(), budget))
    assert len(set(outcome.kept_neurons)) == 1 and outcome.kept_neurons[0] < view_of(model).of_kind("neurons")[0].units
    with pytest.raises(UserError, match="does not keep the layers alike"):
        FineTuned(pruner=find_method("kwon")).check(model, budget)


def test_a_cap_is_on_record(data_for):
    method = FineTuned(KPrune(), recipe=RECIPE, max_examples=20)
    model = tiny_model(dtype=torch.float32)
    outcome = method.prune(Job(model, objective_of(model), data_for(), FlopsBudget(0.5, 8.0)))
    assert outcome.details["training"]["fine_tuning"] == {"steps": 4, "epochs": 2, "examples": 18, "capped": True}


@pytest.mark.parametrize("lr, better", [(1e-3, True), (0.5, False)])
def test_fine_tuning_that_does_not_help_on_held_out_examples_is_undone(data_for, lr, better):
    model, data = tiny_model(dtype=torch.float32), data_for()
    job = Job(model, objective_of(model), data, FlopsBudget(0.5, 8.0))
    pruned = KPrune().prune(job).model.state_dict()
    outcome = FineTuned(recipe=replace(RECIPE, lr=lr)).prune(job)
    held_out = outcome.details["held_out_loss"]
    assert (held_out["trained"] < held_out["pruned"]) == better
    same = [torch.equal(weight, pruned[name]) for name, weight in outcome.model.state_dict().items()]
    assert all(same) != better


def test_nothing_is_dropped_out_in_fine_tuning(data_for, monkeypatch):
    modes, backward = set(), Training.backward
    monkeypatch.setattr(
        Training, "backward", lambda run, batch: modes.add(run.learner.training) or backward(run, batch)
    )
    model = tiny_model(dtype=torch.float32)
    FineTuned(recipe=RECIPE).prune(Job(model, objective_of(model), data_for(), FlopsBudget(0.5, 8.0)))
    assert modes == {False}
