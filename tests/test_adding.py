"""What it takes to add a method, a task, a head or a family: a made-up one of each, and the places that were touched."""

import shutil
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import transformers
import yaml
from tiny import SHAPE, tiny_batch, tiny_labelled, tiny_model
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForNextSentencePrediction,
)
from world import environment, overrides

import kprune
from analysis.aggregate import aggregate
from analysis.figures import style as figures
from analysis.records import load
from analysis.tables import TABLES
from baselines.ranking import Ranking
from baselines.registry import METHODS
from experiments.cell.runner import run_cell
from experiments.config import composing
from experiments.config.cell import configured
from experiments.config.methods import method_with
from experiments.scoring.evaluation import predict
from kprune.contract import Job, Outcome
from kprune.methods.registry import Entry, build
from kprune.models.families import FAMILIES
from kprune.models.family import Family, attention, ffn
from kprune.objectives import OBJECTIVES, objective_of
from kprune.objectives.base import Objective, kl_divergence, random_signs, softmax_roots


class Places:
    """What is added for one test, and gone after it: files of code, entries in a registry, config files."""

    def __init__(self, monkeypatch, conf):
        self.monkeypatch, self.conf = monkeypatch, conf
        self.touched = []

    def code(self, thing):
        """Count the file that a class would have: it stands in this one."""
        self.touched.append("code")
        return thing

    def entry(self, registry, name, value):
        assert name not in registry, "it is made up no more: make up another"
        self.monkeypatch.setitem(registry, name, value)
        self.touched.append("entry")

    def config(self, room, name, text):
        if not self.conf.exists():
            shutil.copytree(composing.CONF, self.conf)
            self.monkeypatch.setattr(composing, "CONF", self.conf)
        (self.conf / room / f"{name}.yaml").write_text(text)
        self.touched.append("config")


@pytest.fixture
def places(monkeypatch, tmp_path):
    return Places(monkeypatch, tmp_path / "conf")


@pytest.fixture
def run(world, monkeypatch, tmp_path):
    """run(["method=kwon", ...]) runs a cell of the tiny world and returns its record, as `python run.py` does."""
    for name, value in environment(world).items():
        monkeypatch.setenv(name, value)

    def run(settings):
        own = {setting.partition("=")[0] for setting in settings}
        given = [setting for setting in overrides(world) if setting.partition("=")[0] not in own]
        return run_cell(configured([*given, *settings, f"outputs={tmp_path / 'outputs'}"]), "single", "python run.py")

    return run


def shown(table, tmp_path):
    """A table of the cells that were run, by method."""
    return TABLES[table].make(aggregate(load(tmp_path / "outputs"))).set_index("Method")


@dataclass(frozen=True)
class First(Ranking):
    """Keep the first units of every block, or the last."""

    from_the_end: bool = False
    name: str = "first"

    def prune(self, job: Job) -> Outcome:
        sign = 1.0 if self.from_the_end else -1.0
        return self.keep_best(job, lambda view: [sign * torch.arange(block.units).double() for block in view.blocks])


class NextSentence(Objective):
    """Compare whether one text follows another, [B, 2]."""

    name = "next_sentence"
    class_suffixes = ("ForNextSentencePrediction",)
    auto_class = "AutoModelForNextSentencePrediction"

    def read(self, output, attention_mask):
        return output.logits

    def divergence(self, student, teacher, temperature):
        return kl_divergence(student, teacher, temperature)

    def fisher_roots(self, logits, temperature, keys):
        signs = random_signs(keys, 2, 0).to(logits.dtype)
        return [softmax_roots(logits, temperature, signs[..., None])[..., 0]]

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)


MEGATRON = Family(
    layers="encoder.layer",
    sites=(
        attention(
            ("attention.self.query", "attention.self.key", "attention.self.value"),
            output="attention.output.dense",
            norm="attention.ln",
            core="attention.self",
            attributes={"attention.self.num_attention_heads": "units", "attention.self.all_head_size": "columns"},
        ),
        ffn(("intermediate.dense",), output="output.dense", norm="ln", core=("intermediate",)),
    ),
    norm_first=True,
    returns_pair=True,
)


def pruned_and_loaded(model, folder, method):
    """What `kprune.prune` makes of a model, from its folder; its logits must be those of the model that was saved."""
    before = model(**tiny_batch()).logits
    outcome = kprune.prune(model, tiny_labelled(examples=24).batches(), 0.4, method=method)
    assert outcome.details["flops_reduction"] >= 0.4 - 1e-9
    assert torch.equal(model(**tiny_batch()).logits, before)
    outcome.save(folder)
    loaded, expected = kprune.load(folder), outcome.model.eval()(**tiny_batch()).logits
    torch.testing.assert_close(loaded(**tiny_batch()).logits, expected, rtol=0, atol=1e-6)
    return loaded


def test_a_method_is_a_class_an_entry_and_a_config(places, run, tmp_path):
    places.code(First)
    places.entry(METHODS, "first", Entry("First units", "floor", f"{__name__}:First"))
    places.config("method", "first", "name: first\nfrom_the_end: false\n")
    outcome = kprune.prune(tiny_model(dtype=torch.float32), tiny_labelled(examples=24).batches(), 0.5, method="first")
    assert all(list(units) == list(range(len(units))) for units in outcome.plan.kept.values())
    assert build("first", {}) == method_with("first") != method_with("first:from_the_end=true")
    record = run(["method=first", "flops_reduction=0.5"])
    turned = run(["method=first", "flops_reduction=0.5", "method.from_the_end=true"])
    assert (record.name, turned.name) == ("first+tokens=200", "first+from_the_end=True,tokens=200")
    run(["method=kcm", "flops_reduction=0.35"])
    table = shown("measurements", tmp_path)
    assert list(table.index) == ["KCM", "First units", "First units (from_the_end=True)"]
    assert table.loc["First units", "Pruned"] == f"{record.score:.2f}"
    assert len(figures.styles([(name, "") for name in METHODS])) == len(METHODS)
    assert places.touched == ["code", "entry", "config"]


def test_a_task_is_a_config(places, run, world, tmp_path):
    task = {"name": "reviews", "kind": "custom", "train_file": str(world / "data.csv"), "evaluation_file": None}
    task |= {"text": ["review"], "label": "stars", "problem": "classification", "label_names": ["bad", "fine", "good"]}
    task |= {"max_length": 32, "average_length": None, "batch_size": 8}
    places.config("task", "reviews", yaml.safe_dump(task))
    record = run(["task=reviews", "method=magnitude", "flops_reduction=0.5"])
    assert record.task == "reviews" and record.evaluation.examples == 12
    assert shown("accuracy", tmp_path).loc["magnitude", "Task"] == "reviews (accuracy)"
    assert places.touched == ["config"]


@pytest.mark.parametrize("method", ("kprune", "kprune_plus"))
def test_a_head_is_a_file_and_an_entry(places, tmp_path, method):
    places.code(NextSentence)
    places.entry(OBJECTIVES, "next_sentence", NextSentence)
    torch.manual_seed(0)
    model = BertForNextSentencePrediction(BertConfig(**SHAPE)).eval()
    pruned = pruned_and_loaded(model, tmp_path / "model", method)
    auto = getattr(transformers, NextSentence.auto_class)
    anywhere = auto.from_pretrained(tmp_path / "model", trust_remote_code=True).eval()
    torch.testing.assert_close(anywhere(**tiny_batch()).logits, pruned(**tiny_batch()).logits, rtol=0, atol=1e-6)
    assert NextSentence.auto_class in (tmp_path / "model" / "README.md").read_text()
    # Scored as the laboratory does, in padded batches.
    examples = tiny_labelled(examples=5).examples
    for logits, example in zip(predict(pruned, examples, objective_of(pruned), 1), examples, strict=True):
        alone = pruned(input_ids=torch.tensor([example["input_ids"]])).logits[0]
        torch.testing.assert_close(logits, alone, rtol=0, atol=1e-4)
    assert places.touched == ["code", "entry"]


def megatron():
    torch.manual_seed(0)
    config = AutoConfig.for_model("megatron-bert", **SHAPE, num_labels=3)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("method", ("kprune", "kprune_plus", "kwon"))
def test_a_family_is_an_entry_of_data(places, tmp_path, method):
    places.entry(FAMILIES, "megatron-bert", MEGATRON)
    pruned_and_loaded(megatron(), tmp_path / "model", method)
    assert places.touched == ["entry"]


def test_a_family_runs_in_a_cell(places, run, world, tmp_path):
    places.entry(FAMILIES, "megatron-bert", MEGATRON)
    model, checkpoint = megatron(), tmp_path / "checkpoint"
    model.config.id2label, model.config.label2id = ({0: "bad", 1: "fine", 2: "good"}, {"bad": 0, "fine": 1, "good": 2})
    model.save_pretrained(checkpoint)
    AutoTokenizer.from_pretrained(world / "checkpoint").save_pretrained(checkpoint)
    record = run([f"model.checkpoint={checkpoint}", "method=kprune_plus_fast", "flops_reduction=0.5"])
    assert record.flops_reduction == pytest.approx(0.5, abs=0.05) and shown("accuracy", tmp_path).index[0]
    assert places.touched == ["entry"]
