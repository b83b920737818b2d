"""What it takes to add a method, a head or a family: a made-up one of each, and the places that were touched."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny import SHAPE, tiny_batch, tiny_labelled, tiny_model
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

import kprune
from baselines.ranking import Ranking
from baselines.registry import METHODS
from kprune.contract import Job, Outcome
from kprune.methods.registry import Entry, build
from kprune.models.families import FAMILIES, Family, attention, ffn
from kprune.objectives import OBJECTIVES
from kprune.objectives.base import Objective, kl_divergence, random_signs, softmax_roots


class Places:
    """What is added for one test, and gone after it: code of its own, entries in a registry, config files."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.touched = []

    def code(self, thing):
        """Count the file that a class would have: it stands in this one."""
        self.touched.append("file of code")
        return thing

    def entry(self, registry, name, value):
        assert name not in registry, "it is made up no more: make up another"
        self.monkeypatch.setitem(registry, name, value)
        self.touched.append("entry")


@pytest.fixture
def places(monkeypatch):
    return Places(monkeypatch)


@dataclass(frozen=True)
class First(Ranking):
    """Keep the first units of every block, or the last."""

    from_the_end: bool = False
    name: str = "first"

    def prune(self, job: Job) -> Outcome:
        sign = 1.0 if self.from_the_end else -1.0
        return self.keep_best(job, lambda view: [sign * torch.arange(block.units).double() for block in view.blocks])


class MaskedWords(Objective):
    """Compare the words [B, T, V] that are foreseen for every token that is no padding."""

    name = "masked_words"
    class_suffix = "ForMaskedLM"
    auto_class = "AutoModelForMaskedLM"

    def read(self, output, attention_mask):
        return output.logits * attention_mask[..., None]

    def read_tokens(self, attention_mask):
        return attention_mask.bool()

    def crop(self, logits, length):
        return logits[:length]

    def divergence(self, student, teacher, temperature):
        return kl_divergence(student, teacher, temperature).sum(dim=-1)

    def fisher_roots(self, logits, temperature, keys):
        signs = random_signs(keys, logits[0].numel(), 0).reshape(logits.shape).to(logits.dtype)
        return [softmax_roots(logits, temperature, signs[..., None]).sum(dim=(1, 2))]

    def loss(self, logits, labels):
        return F.cross_entropy(logits.transpose(1, 2), labels)


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


def test_a_method_is_a_class_and_an_entry(places):
    places.code(First)
    places.entry(METHODS, "first", Entry("First units", "floor", f"{__name__}:First"))
    outcome = kprune.prune(tiny_model(dtype=torch.float32), tiny_labelled(examples=24).batches(), 0.5, method="first")
    assert all(list(units) == list(range(len(units))) for units in outcome.plan.kept.values())
    assert build("first", {"from_the_end": True}) == First(from_the_end=True)
    assert places.touched == ["file of code", "entry"]


@pytest.mark.parametrize("method", ("kprune", "kprune_plus"))
def test_a_head_is_a_file_and_an_entry(places, tmp_path, method):
    places.code(MaskedWords)
    places.entry(OBJECTIVES, "masked_words", MaskedWords)
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SHAPE)).eval()
    pruned = pruned_and_loaded(model, tmp_path / "model", method)
    auto = getattr(transformers, MaskedWords.auto_class)
    anywhere = auto.from_pretrained(tmp_path / "model", trust_remote_code=True).eval()
    torch.testing.assert_close(anywhere(**tiny_batch()).logits, pruned(**tiny_batch()).logits, rtol=0, atol=1e-6)
    assert MaskedWords.auto_class in (tmp_path / "model" / "README.md").read_text()
    assert places.touched == ["file of code", "entry"]


@pytest.mark.parametrize("method", ("kprune", "kprune_plus", "kwon"))
def test_a_family_is_an_entry_of_data(places, tmp_path, method):
    places.entry(FAMILIES, "megatron-bert", MEGATRON)
    torch.manual_seed(0)
    config = AutoConfig.for_model("megatron-bert", **SHAPE, num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    pruned_and_loaded(model, tmp_path / "model", method)
    assert places.touched == ["entry"]
