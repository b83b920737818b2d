"""`kprune.prune` on somebody's own model and batches; the README's example is run as it stands there."""

import copy
import importlib.util
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from commands import run_python
from tiny import FAMILY_AND_HEAD, narrowed, tiny_batch, tiny_calibration, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import l1_unstructured
from transformers import BertForPreTraining, BertForSequenceClassification, PreTrainedTokenizerFast

import kprune
from baselines.retrained.cofi import CoFi
from baselines.retrained.dynabert import DynaBERT
from baselines.retrained.ebert import EBERT
from baselines.retrained.finetuned import FineTuned
from kprune.api import calibration_set
from kprune.budgets import FlopsBudget
from kprune.budgets.latency import Point
from kprune.budgets.latency.timing import random_batch
from kprune.checkpoint import save
from kprune.contract import Job, Method, PruningData
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.registry import build
from kprune.models import view_of
from kprune.models.surgery import keep_units
from kprune.objectives import Regression, Span, objective_of

ROOT = Path(__file__).parents[2]


def example(name):
    """The python block of the README behind its `<!-- tested: name -->`."""
    return re.search(rf"<!-- tested: {name} -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


def batches(model, pad=None):
    pad = model.config.pad_token_id if pad is None else pad
    for batch in tiny_calibration(24).batches(by_length=False):
        yield batch | {"input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pad)}


def test_the_readmes_example(tmp_path):
    words = {word: index for index, word in enumerate(["[UNK]", "[PAD]", *(f"w{i}" for i in range(97))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        tmp_path / "my-model"
    )
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "my-model")
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (40,), generator=generator).tolist()
    texts = [" ".join(f"w{i}" for i in torch.randint(97, (n,), generator=generator).tolist()) for n in lengths]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    done = run_python(["-c", example("prune")], dict(os.environ), tmp_path)
    assert done.returncode == 0, done.stderr
    pruned = kprune.load(tmp_path / "pruned")
    heads, neurons = ([block.units for block in view_of(pruned).of_kind(kind)] for kind in ("heads", "neurons"))
    assert f"{heads} {neurons}" in done.stdout
    assert 0 < sum(heads) / 12 + sum(neurons) / 144 < 1
    assert "FLOPs removed | 8" in (tmp_path / "pruned/README.md").read_text()


@pytest.mark.parametrize("family, head", FAMILY_AND_HEAD)
def test_it_is_the_method_on_the_examples_without_padding(family, head):
    model = tiny_model(family, head, dtype=torch.float32)
    outcome = kprune.prune(model, batches(model), flops_reduction=0.6)
    calibration = tiny_calibration(24)
    budget = FlopsBudget(0.6, calibration.tokens / 24)
    same = KPrune().prune(Job(model, objective_of(model), PruningData(calibration), budget))
    assert outcome.plan.kept == same.plan.kept
    assert outcome.details["flops_reduction"] >= 0.6
    assert outcome.details["sequence_length"] == budget.sequence_length


class Recorder(Method):
    """A method that keeps what it was given."""

    name = "recorder"

    def __init__(self, needs=()):
        self.needs = frozenset(needs)

    def reach(self, model, sequence_length):
        return 0.7

    def prune(self, job):
        self.job, self.objective, self.examples = job, job.objective, job.data.calibration.examples
        return KPrune().prune(job)


def test_methods_and_tasks_of_ones_own():
    model, recorder = tiny_model(head="regression", dtype=torch.float32), Recorder()
    model.config.problem_type, labelled = (
        None,
        [b | {"labels": torch.zeros(len(b["input_ids"]))} for b in batches(model)],
    )
    kprune.prune(model, labelled, 0.5, method=recorder, task="regression")
    assert isinstance(recorder.objective, Regression)
    assert "label" not in recorder.examples[0], "labels are withheld from a method that does not need them"
    with pytest.raises(UserError, match="recorder reaches a FLOPs reduction of 0.700"):
        kprune.prune(model, labelled, 0.8, method=recorder)


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
def test_several_labels_at_once_are_compared_as_values_if_asked_for(method):
    model = tiny_model(dtype=torch.float32)
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(UserError, match="problem_type='multi_label_classification'.* give task='multi_label'"):
        kprune.prune(model, batches(model), 0.5, method, task="classification")
    outcome = kprune.prune(model, batches(model), 0.5, method, task="regression")
    assert outcome.details["flops_reduction"] >= 0.5
    model.config.problem_type = "regression"
    assert kprune.prune(model, batches(model), 0.5, method).plan.kept == outcome.plan.kept


@pytest.mark.parametrize(
    "head, label, message",
    [
        (
            "classification",
            torch.tensor([0, 1, 2, 3]),
            "batch 0, example 3: labels is 3, not a whole number from 0 to 2",
        ),
        ("classification", torch.tensor([0, 1, -100, 2]), "example 2: labels is -100"),
        ("classification", torch.tensor([0.0, 1.0, 2.0, 1.0]), "example 0: labels is 0.0"),
        ("classification", torch.tensor([[0], [1], [2], [1]]), r"example 0: labels is \[0\]"),
        ("classification", torch.tensor(1), r"labels is \[\], and there are 4 examples"),
        ("regression", torch.tensor([0.0, 1.0, float("nan"), 1.0]), "labels that are NaN or infinite"),
        ("span", torch.tensor([0, 1, 2, 12]), "example 3: start_positions is 12, not a whole number from 0 to 9"),
    ],
)
def test_labels_that_a_head_has_not(head, label, message):
    model = tiny_model(head=head, dtype=torch.float32)
    names = ("start_positions", "end_positions") if head == "span" else ("labels",)
    batch = {"input_ids": torch.arange(5, 45).view(4, 10), **dict.fromkeys(names, label)}
    with pytest.raises(UserError, match=message) as error:
        kprune.prune(model, [batch], 0.5, "kwon")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_for_afterwards(dtype, tmp_path):
    model = tiny_model(dtype=torch.float32)
    outcome = kprune.prune(model, batches(model), 0.5)
    with pytest.raises(UserError, match=f"is {dtype}, too coarse to measure and solve with: load the model in float32"):
        kprune.prune(model.to(dtype), batches(model), 0.5)
    outcome.model.to(dtype)
    assert kprune.load(outcome.save(tmp_path / "half")).dtype == torch.float32


def test_labels_go_to_a_method_that_needs_them():
    model, recorder = tiny_model(head="span", dtype=torch.float32), Recorder(needs={"labels"})
    spans = [
        b | {name: torch.arange(len(b["input_ids"])) for name in ("start_positions", "end_positions")}
        for b in batches(model)
    ]
    kprune.prune(model, spans, 0.5, method=recorder)
    assert recorder.examples[3]["label"] == (3, 3) and isinstance(recorder.examples[0]["label"][0], int)
    with pytest.raises(UserError, match="batch 0 has no tensor start_positions"):
        kprune.prune(model, batches(model), 0.5, method=recorder)


def test_a_speedup_in_place_of_a_reduction():
    # Wide enough that its layers take longer than what cannot be pruned, on a busy machine, too.
    model = tiny_model(dtype=torch.float32)
    for block in view_of(model).of_kind("neurons"):
        (first,), last = block.inputs, block.output
        wide = 4096
        first.weight = torch.nn.Parameter(first.weight.repeat(wide // 48 + 1, 1)[:wide])
        first.bias = torch.nn.Parameter(first.bias.repeat(wide // 48 + 1)[:wide])
        last.weight = torch.nn.Parameter(last.weight.repeat(1, wide // 48 + 1)[:, :wide] / 86)
        first.out_features = last.in_features = wide
    model.config.intermediate_size = 4096
    outcome = kprune.prune(model, batches(model), speedup=1.1, speedup_at=Point(4, 32))
    # What is removed hangs on times of microseconds: on a busy machine it can be nothing.
    assert outcome.details["latency"]["batch_size"] == 4 and 0 <= outcome.details["flops_reduction"] < 1
    assert 1 <= len(outcome.details["latency_budget"]["attempts"]) <= 3
    with pytest.raises(UserError, match="speedup=1000 is out of reach"):
        kprune.prune(model, batches(model), speedup=1000, speedup_at=Point(2, 8))
    with pytest.raises(UserError, match="speedup=1 asks for no speed-up"):
        kprune.prune(model, batches(model), speedup=1)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_speedup_of_a_model_that_reads_less_than_the_standard_length(family, monkeypatch):
    model, points = tiny_model(family, dtype=torch.float32), []

    def at_half(method, model, objective, data, speedup, length, point, *widths):
        points.append(point)
        return method.prune(Job(model, objective, data, FlopsBudget(0.5, 8.0))), {}

    monkeypatch.setattr("kprune.api.prune_to_speedup", at_half)
    kprune.prune(model, batches(model), speedup=1.1)
    longest = {"bert": 64, "roberta": 62}[family]
    assert points == [Point(32, longest)]
    model(**random_batch(model, 2, longest))
    with pytest.raises(UserError, match=f"on {longest + 1} tokens, the model reads {longest}: give a shorter length"):
        random_batch(model, 2, longest + 1)


def test_a_method_that_trains_is_told_where_it_can():
    model = tiny_model(dtype=torch.float32)
    for method in (DynaBERT(), EBERT(), CoFi(), FineTuned(KPrune())):
        with pytest.raises(UserError, match="trains on labelled examples.* use it with run.py"):
            kprune.prune(model, batches(model), 0.5, method=method)


def test_a_model_without_any_unit():
    model = tiny_model(dtype=torch.float32)
    for block in view_of(model).blocks:
        keep_units(block, torch.arange(0))
    for budget in (dict(flops_reduction=0.5), dict(speedup=2)):
        with pytest.raises(UserError, match="no head and no neuron left"):
            kprune.prune(model, batches(model), **budget)


def test_batches_without_a_mask_have_no_padding():
    ids = torch.randint(5, 99, (4, 6), generator=torch.Generator().manual_seed(0))
    model = tiny_model()
    calibration = calibration_set(model, [{"input_ids": ids, "attention_mask": None}], objective_of(model), False)
    assert calibration.tokens == 24


IDS = torch.full((2, 4), 7)
RIGHT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "batches is empty"),
        (None, "batches is a NoneType"),
        ({"input_ids": IDS}, "batches is one batch"),
        ([(IDS, RIGHT)], "batch 0 is a tuple: give dicts"),
        ([{"attention_mask": RIGHT}], "batch 0 has no tensor input_ids, but attention_mask"),
        ([{"input_ids": [[1, 2]]}], "no tensor input_ids"),
        ([{"input_ids": IDS[0]}], r"input_ids are \[4\] torch.int64"),
        ([{"input_ids": IDS[:0]}], "batch 0 is empty"),
        ([{"input_ids": IDS, "attention_mask": RIGHT[:1]}], r"attention_mask is \[1, 4\], input_ids \[2, 4\]"),
        ([{"input_ids": IDS}, {"input_ids": IDS, "attention_mask": RIGHT * 0}], "batch 1, example 0 is padding alone"),
        ([{"input_ids": IDS, "attention_mask": RIGHT.flip(1)}], "padded on the left, and the model's answer hangs"),
        ([{"input_ids": IDS, "attention_mask": torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1]])}], "padding between tokens"),
        ([{"input_ids": IDS, "token_type_ids": IDS}], "token type 7, the model's number of types is 2"),
        ([{"input_ids": IDS - 9}], "token -2, the model's vocabulary is 99"),
        ([{"input_ids": IDS * 99}], "token 693, the model's vocabulary is 99"),
        ([{"input_ids": torch.full((1, 65), 7)}], "65 tokens, the model reads 64"),
    ],
)
def test_batches_that_no_model_reads(batches, message):
    with pytest.raises(UserError, match=message):
        kprune.prune(tiny_model(), batches)


def test_models_and_settings_that_do_not_work():
    model = tiny_model()
    with pytest.raises(UserError, match="method 'nonsense' is unknown: use one of kprune_plus"):
        kprune.prune(model, batches(model), method="nonsense")
    with pytest.raises(
        UserError,
        match="task 'nonsense' is unknown: use multi_label, regression, classification, multiple_choice, "
        "token_classification, span",
    ):
        kprune.prune(model, batches(model), task="nonsense")
    with pytest.raises(UserError, match=r"outside \(0, 1\)"):
        kprune.prune(model, batches(model), flops_reduction=80)
    with pytest.raises(UserError, match="no head K-prune can compare"):
        kprune.prune(BertForPreTraining(model.config), batches(model))
    with pytest.raises(UserError, match="'Linear' is not supported"):
        kprune.prune(torch.nn.Linear(2, 2), batches(model), task="classification")
    model.bert.encoder.layer[1].output.dense.weight.data[3, 4] = float("nan")
    with pytest.raises(UserError, match="bert.encoder.layer.1.output.dense.weight has values that are NaN"):
        kprune.prune(model, batches(model))


def test_a_model_built_by_a_checkpoints_own_code_is_pruned_again(tmp_path, monkeypatch):
    """As with trust_remote_code=True: the classes of emptied blocks are not kprune's."""
    folder = save(narrowed(), tmp_path / "model")
    spec = importlib.util.spec_from_file_location("shipped_modeling_kprune", folder / "modeling_kprune.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "shipped_modeling_kprune", module)
    spec.loader.exec_module(module)
    model = module.PrunedBertForSequenceClassification.from_pretrained(folder)
    outcome = kprune.prune(model, batches(model), 0.5)
    assert outcome.kept_heads[0] == 0 and outcome.details["flops_reduction"] >= 0.5
    outcome.save(tmp_path / "again")
    batch = tiny_batch()
    assert torch.equal(kprune.load(tmp_path / "again")(**batch).logits, outcome.model.eval()(**batch).logits)


def test_importing_kprune_imports_no_torch():
    script = "import kprune, kprune.errors, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def kept(model, batches, **settings):
    return kprune.prune(model, batches, 0.5, **settings).plan.kept


def test_token_types_are_read_and_are_zero_where_a_batch_has_none():
    model, plain = tiny_model(dtype=torch.float32), list(batches(tiny_model()))
    typed = [b | {"token_type_ids": torch.ones_like(b["input_ids"])} for b in plain]
    zeros = [b | {"token_type_ids": torch.zeros_like(b["input_ids"])} for b in plain]
    assert kept(model, typed) != kept(model, plain) == kept(model, zeros)
    for mixed in ([*typed[:3], *plain[3:]], [*plain[3:], *typed[:3]]):
        same = [b if "token_type_ids" in b else b | {"token_type_ids": torch.zeros_like(b["input_ids"])} for b in mixed]
        assert kept(model, mixed) == kept(model, same)
    distilbert = tiny_model("distilbert", dtype=torch.float32)
    assert kept(distilbert, typed) == kept(distilbert, plain), "a model without token types does not read them"


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
@pytest.mark.parametrize(
    "family, head", [("bert", "classification"), ("bert", "span"), ("distilbert", "classification")]
)
def test_one_example_alone(method, family, head):
    """Of one token that has all the weight, no feature varies."""
    model = tiny_model(family, head, dtype=torch.float32)
    for length in (1, 6):
        outcome = kprune.prune(model, [{"input_ids": torch.arange(5, 5 + length)[None]}], 0.5, method)
        assert outcome.details["flops_reduction"] >= 0.5
        assert all(torch.isfinite(parameter).all() for parameter in outcome.model.parameters())


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
def test_one_example_that_holds_all_the_energy(method):
    """All others are so certain that nothing is felt of what is done to them."""
    model, batch = tiny_model("distilbert", dtype=torch.float32), tiny_batch()
    logits = model(**batch).logits
    with torch.no_grad():
        model.classifier.weight.mul_(60)
        model.classifier.bias.copy_(60 * (model.classifier.bias - logits[0]))  # the first is undecided
    outcome = kprune.prune(model, [batch], 0.5, method)
    assert outcome.details["flops_reduction"] >= 0.5


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_before_an_example_is_as_none_if_the_model_answers_the_same(side):
    model, recorder = tiny_model("roberta", "span", dtype=torch.float32), Recorder(needs={"labels"})
    pad = model.config.pad_token_id
    padded = []
    for batch in batches(model):
        lengths = batch["attention_mask"].sum(dim=1)
        shift = batch["input_ids"].shape[1] - lengths if side == "left" else torch.zeros_like(lengths)
        turned = {
            name: torch.stack([row.roll(int(by)) for row, by in zip(batch[name], shift, strict=True)])
            for name in ("input_ids", "attention_mask")
        }
        assert (turned["input_ids"][turned["attention_mask"] == 0] == pad).all()
        padded.append(turned | {"start_positions": shift, "end_positions": shift + lengths - 1})
    kprune.prune(model, padded, 0.5, method=recorder)
    assert recorder.examples == [
        {**plain, "label": (0, len(plain["input_ids"]) - 1)} for plain in tiny_calibration(24).examples
    ]
    with pytest.raises(UserError, match="^batch 0 is padded on the left") if side == "left" else nullcontext():
        kprune.prune(tiny_model("roberta", dtype=torch.float32), padded, 0.5)


class OwnBert(BertForSequenceClassification):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = -output.logits
        return output


def own_class(name):
    model = tiny_model(dtype=torch.float32)
    model.__class__ = type(name, (OwnBert,), {})
    return model


def changed(change, family="bert", **settings):
    model = tiny_model(family, dtype=torch.float32, **settings)
    change(model)
    return model


def set_head(model):
    model.classifier = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.Linear(8, 3))


def name_arguments(model):
    set_head(model)
    model.classifier.arguments = dict


def widen_head(model):
    model.classifier = torch.nn.Linear(32, 4)


def add_module(model):
    model.bert.adapter = torch.nn.Linear(3, 3)


def replace_activation(model):
    model.bert.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.ReLU()


def wrap_query(model):
    class LoraLinear(torch.nn.Linear):
        pass

    model.bert.encoder.layer[2].attention.self.query.__class__ = LoraLinear


def set_forward(model):
    model.classifier.forward = lambda features: features[:, :3]


UNSAVEABLE = {
    "a subclass of a stock name": (own_class, "BertForSequenceClassification", "is not a class of transformers"),
    "a subclass": (own_class, "OwnForSequenceClassification", "is not a class of transformers"),
    "a head of one's own": (changed, set_head, "classifier is a Sequential, not a Linear"),
    "a wider head": (changed, widen_head, r"classifier has a bias of \[4\], not \[3\]"),
    "an attribute of the name that stand-ins have": (
        changed,
        name_arguments,
        "classifier is a Sequential, not a Linear",
    ),
    "a module more": (changed, add_module, "bert.adapter is added"),
    "another activation": (changed, replace_activation, "intermediate_act_fn is a ReLU, not a GELUActivation"),
    "an adapter": (changed, wrap_query, "layer.2.attention.self.query is a LoraLinear, not a Linear"),
    "weight norm": (changed, lambda m: weight_norm(m.classifier), "classifier is a ParametrizedLinear, not a Linear"),
    "masks": (changed, lambda m: l1_unstructured(m.classifier, "weight", 0.5), "classifier has bias and weight_orig"),
    "a patched forward": (changed, set_forward, "classifier has a forward of its own"),
}


@pytest.mark.parametrize("case", UNSAVEABLE)
def test_what_could_not_be_saved_is_told_before_anything_is_done(case):
    make, how, message = UNSAVEABLE[case]
    recorder = Recorder()
    with pytest.raises(UserError, match=message) as error:
        kprune.prune(make(how), [{"input_ids": IDS}], 0.5, method=recorder)
    assert not hasattr(recorder, "job") and "\n" not in str(error.value)


def test_a_head_that_is_changed_afterwards_is_not_saved(tmp_path):
    outcome = kprune.prune(tiny_model(dtype=torch.float32), [{"input_ids": IDS}], 0.5)
    set_head(outcome.model)
    with pytest.raises(UserError, match="classifier is a Sequential, not a Linear"):
        outcome.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


class HalfSpan(Span):
    """A user's own kind of span."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def divergence(self, student, teacher, temperature):
        return self.weight * super().divergence(student, teacher, temperature)


class Headless(HalfSpan):
    """As an objective that was written before it named several classes."""

    class_suffixes = ()

    def __init__(self):
        super().__init__(1.0)


def test_an_objective_of_ones_own_stays_what_it_is(monkeypatch):
    seen = []
    divergence = HalfSpan.divergence
    monkeypatch.setattr(HalfSpan, "divergence", lambda self, *args: seen.append(self) or divergence(self, *args))
    model = tiny_model(head="span", dtype=torch.float32)
    own = HalfSpan(0.5)
    for method in ("kprune_official", "kprune"):
        kprune.prune(model, batches(model), 0.5, build(method, {"lambdas": [0.1, 1.0]}), task=own)
    assert {type(objective) for objective in seen} == {HalfSpan} and {o.weight for o in seen} == {0.5}
    assert own.keep_padding is False


@pytest.mark.parametrize(
    "head, task, message",
    [
        ("classification", "span", "'span' is for a ...ForQuestionAnswering model, this is a BertForSequence"),
        ("classification", Span(), "'span' is for a ...ForQuestionAnswering model"),
        ("span", "classification", "'classification' is for a ...ForSequenceClassification model, this is a BertForQ"),
        ("span", "regression", "'regression' is for a ...ForSequenceClassification model"),
        ("regression", "classification", "has one output.* give task='regression'"),
        ("classification", Span, "is unknown: use"),
        ("classification", ["span"], "is unknown: use"),
    ],
)
def test_a_task_that_is_not_the_heads(head, task, message):
    model = tiny_model(head=head, dtype=torch.float32)
    with pytest.raises(UserError, match=message):
        kprune.prune(model, batches(model), 0.5, task=task)


def test_tuples_for_outputs_change_nothing():
    model = tiny_model(dtype=torch.float32)
    expected = kept(model, batches(model)), kept(model, batches(model), method="kprune_plus")
    model.config.return_dict = False
    assert (kept(model, batches(model)), kept(model, batches(model), method="kprune_plus")) == expected
    assert model.config.return_dict is False


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
def test_within_inference_mode(method):
    expected = kept(tiny_model(dtype=torch.float32), batches(tiny_model()), method=method)
    with torch.inference_mode():
        model = tiny_model(dtype=torch.float32)
        outcome = kprune.prune(model, batches(model), 0.5, method)
    assert outcome.plan.kept == expected
    outcome.model.train()(**tiny_batch()).logits.sum().backward()


def test_settings_of_a_model_that_are_one_line():
    roberta = tiny_model("roberta", dtype=torch.float32)
    roberta.config.pad_token_id = None
    with pytest.raises(UserError, match="config has no pad_token_id"):
        kprune.prune(roberta, [{"input_ids": IDS}], 0.5)
    model = tiny_model(dtype=torch.float32)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(UserError, match=r"='flex_attention' is not .*\.set_attn_implementation\('sdpa'\)"):
        kprune.prune(model, [{"input_ids": IDS}], 0.5)
    model = tiny_model(dtype=torch.float32)
    with pytest.raises(UserError, match="method is a int: give the name"):
        kprune.prune(model, [{"input_ids": IDS}], 0.5, method=3)
    with pytest.raises(UserError, match="flops_reduction='0.8' is not a number"):
        kprune.prune(model, [{"input_ids": IDS}], "0.8")
    with pytest.raises(UserError, match="uniform='no' is neither True nor False"):
        kprune.prune(model, [{"input_ids": IDS}], 0.5, uniform="no")
    with pytest.raises(UserError, match=r"speedup_at=\(2, 8\) is no point: give a kprune.budgets.latency.Point"):
        kprune.prune(model, [{"input_ids": IDS}], speedup=2, speedup_at=(2, 8))
    with pytest.raises(UserError, match="Headless does not say which models have its head: give it class_suffixes"):
        kprune.prune(model, [{"input_ids": IDS}], 0.5, task=Headless())


def test_an_unknown_format_is_one_line(tmp_path):
    model = tiny_model(dtype=torch.float32)
    outcome = kprune.prune(model, batches(model), 0.5, method="kprune_fast")
    for format in ("GGUF", ""):
        with pytest.raises(UserError, match=f"format={format} is unknown: use pruned, uniform, dense"):
            outcome.save(tmp_path / "model", format=format)


def state(model):
    config = copy.deepcopy(model.config.to_dict())
    weights = {name: (p.clone(), p.requires_grad, p.dtype, p.device) for name, p in model.named_parameters()}
    modes = {
        name: (type(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }
    return config, weights, modes


@pytest.mark.parametrize("method", ["kprune", "kprune_plus", "kwon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_stays_as_it_was_and_comes_back_as_it_went_in(method, dtype):
    model = tiny_model(dtype=dtype).train()
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[0].eval()
    labelled = [b | {"labels": torch.zeros(len(b["input_ids"]), dtype=torch.long)} for b in batches(model)]
    config, weights, modes = state(model)
    outcome = kprune.prune(model, labelled, 0.5, method)
    after = state(model)
    assert after[0] == config and after[2] == modes
    for name, (value, *rest) in weights.items():
        assert torch.equal(after[1][name][0], value) and [*after[1][name][1:]] == rest
    for name, parameter in outcome.model.named_parameters():
        assert [parameter.requires_grad, parameter.dtype, parameter.device] == [*weights[name][1:]]
    for name, module in outcome.model.named_modules():
        assert module.training == modes.get(name, (None, True))[1], name
    changes = {"kprune", "architectures", "auto_map"}
    pruned = {name: value for name, value in outcome.model.config.to_dict().items() if name not in changes}
    assert pruned == {name: value for name, value in config.items() if name not in changes}


def test_a_share_of_the_whole_models_parameters():
    model, batches = tiny_model(dtype=torch.float32), [tiny_batch()]
    outcomes = [kprune.prune(model, batches, params_reduction=0.2, of=of) for of in ("layers", "model")]
    layers, whole = ([p for p in outcome.model.parameters()] for outcome in outcomes)
    left = [sum(p.numel() for p in parameters) for parameters in (model.parameters(), layers, whole)]
    assert left[2] <= 0.8 * left[0] < left[1]
    with pytest.raises(UserError, match="of='model' goes with params_reduction"):
        kprune.prune(model, batches, of="model")
    with pytest.raises(UserError, match="of='all' is unknown: give one of layers, model"):
        kprune.prune(model, batches, params_reduction=0.2, of="all")
