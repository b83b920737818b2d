"""Methods by name: what their entries build, what is refused, and what is there without a clone of the repository."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_labelled, tiny_model

import kprune
from baselines.kwon import Kwon
from baselines.registry import METHODS
from kprune.errors import UserError
from kprune.methods import registry
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.kprune.knowledge import KnowledgeSettings
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.methods.registry import Entry, build, find_method
from kprune.training import Recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_builds_a_method_of_its_name(name):
    method = build(name, {})
    assert method.name == name and callable(method.prune)
    assert method == find_method(name) == build(name, {"name": name})


@pytest.mark.parametrize("name", METHODS)
def test_the_floors_are_the_methods_that_read_no_text(name):
    assert (METHODS[name].group == "floor") != build(name, {}).passes


def test_a_preset_differs_from_its_class_by_its_settings_alone():
    assert build("kprune_plus_fast", {}) == KPrunePlus(refit_epochs=0, name="kprune_plus_fast")
    fisher = build("kprune_fisher", {})
    assert fisher.knowledge == KnowledgeSettings(predictive="fisher") and fisher.lambdas == (0.001,)
    fast = build("kprune_fast", {})
    assert (fisher.measure_every, fisher.measure_examples) == (fast.measure_every, fast.measure_examples) == (2, 8)
    official = build("kprune_official", {})
    assert official.lambdas == (2.5e-4,) and official.measure_every == KPrune().measure_every
    # A group of settings keeps what its mapping does not name.
    paper = KnowledgeSettings()
    assert official.knowledge.kl != paper.kl and official.knowledge.temperature == paper.temperature
    hotter = build("kprune_official", {"knowledge": {"temperature": 3.0}}).knowledge
    assert hotter.temperature == 3 and hotter.kl == official.knowledge.kl


def test_settings_are_plain_values_of_a_config():
    assert build("kprune", {"lambdas": [0.1, None], "mu": 2}) == KPrune(lambdas=(0.1, None), mu=2)
    recipe = build("ebert", {"recipe": {"epochs": 1}}).recipe
    assert recipe == Recipe(epochs=1, lr=3e-5, warmup=0.1), "the rest is the method's own recipe"
    assert build("dynabert_w", {"widths": [0.5]}).widths == (0.5,)


def test_a_method_within_a_method_is_settings_too():
    assert build("kprune_finetuned", {}).pruner == KPrune()
    assert build("kprune_finetuned", {"pruner": {"mu": 2.0}}).pruner == KPrune(mu=2.0)
    other = build("kprune_finetuned", {"pruner": {"name": "kprune_plus_fast", "ridge": 0.5}}).pruner
    assert other == KPrunePlus(refit_epochs=0, ridge=0.5, name="kprune_plus_fast")
    assert build("kprune_finetuned", {"pruner": Kwon()}).pruner == Kwon()


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("kprune", {"lamda": 1}, ["kprune has no setting lamda", "lambdas, mu, knowledge"]),
        ("kprune", {"knowledge": {"kind": 1}}, ["knowledge.kind", "knowledge.temperature, knowledge.predictive"]),
        ("cofi", {"recipe": {"rate": 1}}, ["cofi has no setting recipe.rate", "recipe.epochs, recipe.lr"]),
        ("random", {"x": 1}, ["random has no setting x: it has none"]),
        ("kprune_finetuned", {"pruner": {"lamda": 1}}, ["kprune has no setting lamda"]),
        (
            "kprune_finetuned",
            {"pruner": {"name": "wanda"}},
            ["pruner=wanda sets single weights to zero", "such as kprune"],
        ),
        ("kprune_finetuned", {"pruner": 3}, ["pruner=3 is no group of settings"]),
        ("cofi", {"recipe": 3}, ["recipe=3 is no group of settings", "recipe.epochs"]),
        ("kprune", {"mu": "abc"}, ["mu=abc is not a number", "default is 1.0"]),
        ("kprune", {"mu": True}, ["mu=True is not a number"]),
        ("kprune", {"tuning": 1}, ["tuning=1 is not True or False"]),
        ("kprune", {"lambdas": 0.1}, ["lambdas=0.1 is not a list", "(0.1,)"]),
        ("kprune", {"lambdas": [0.1, "x"]}, ["a number or None"]),
        ("kprune", {"measure_every": 1.5}, ["measure_every=1.5 is not a whole number or None"]),
        ("kprune", {"solve": "float16"}, ["solve=float16 is not float64 or float32", "default is float64"]),
        ("kprune_plus", {"repair": "abc"}, ["repair=abc is not a number or auto: the default is auto"]),
        ("kprune_plus", {"kinds": ["layers"]}, ["is not a list, each heads or neurons"]),
        ("cofi", {"recipe": {"epochs": 1.5}}, ["recipe.epochs=1.5 is not a whole number"]),
        ("nonsense", {}, ["method 'nonsense' is unknown", "kprune_plus", "kwon", "cofi"]),
    ],
)
def test_what_is_no_setting_is_one_line(name, settings, words):
    with pytest.raises(UserError) as refused:
        build(name, settings)
    message = str(refused.value)
    assert len(message.splitlines()) == 1 and all(word in message for word in words), message


@pytest.mark.parametrize("name", METHODS)
def test_every_method_checks_the_types_of_its_settings_in_python(name):
    method = build(name, {})
    with pytest.raises(UserError, match="^name=3 is not a text"):
        replace(method, name=3)


@pytest.fixture
def missing(monkeypatch):
    """missing("scipy") makes every later import fail as if that module was not installed."""

    def without(module):
        def fails(name):
            raise ModuleNotFoundError(f"No module named '{module}'", name=module)

        monkeypatch.setattr(registry.importlib, "import_module", fails)

    return without


def test_a_competitor_without_a_clone_is_one_line(missing):
    missing("baselines")
    with pytest.raises(UserError, match=r"kwon.*kprune_plus, .*clone of kprune's repository on the Python path"):
        find_method("kwon")


def test_a_broken_clone_is_not_taken_for_none(missing):
    missing("scipy")
    with pytest.raises(ModuleNotFoundError, match="scipy"):
        find_method("kwon")


def test_an_entry_added_at_run_time_counts_everywhere(monkeypatch):
    monkeypatch.setitem(
        registry.METHODS, "mine", Entry("Mine", "ours", "kprune.methods.kprune.algorithm:KPrune", {"mu": 2.0})
    )
    assert build("mine", {}) == KPrune(mu=2.0, name="mine") and METHODS["mine"].label == "Mine"


def test_the_registries_import_no_torch():
    command = "import sys, baselines.registry, kprune.methods.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ("kwon", "magnitude", "kprune_plus_fast"))
def test_every_method_prunes_by_name_from_python(name):
    outcome = kprune.prune(tiny_model(dtype=torch.float32), tiny_labelled(examples=24).batches(), 0.3, method=name)
    assert outcome.details["flops_reduction"] >= 0.3 - 1e-9
