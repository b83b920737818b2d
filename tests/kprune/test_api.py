"""`kprune.prune` on somebody's own model and batches; the README's example is run as it stands there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, HEADS, narrowed, tiny_batch, tiny_calibration, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

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
from kprune.contract import Job, PruningData
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.models import view_of
from kprune.objectives import Regression, objective_of

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
    command, path = [sys.executable, "-c", example("prune")], f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    pruned = kprune.load(tmp_path / "pruned")
    heads, neurons = ([block.units for block in view_of(pruned).of_kind(kind)] for kind in ("heads", "neurons"))
    assert f"{heads} {neurons}" in done.stdout
    assert 0 < sum(heads) / 12 + sum(neurons) / 144 < 1
    assert "FLOPs removed | 8" in (tmp_path / "pruned/README.md").read_text()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_it_is_the_method_on_the_examples_without_padding(family, head):
    model = tiny_model(family, head, dtype=torch.float32)
    outcome = kprune.prune(model, batches(model), flops_reduction=0.6)
    calibration = tiny_calibration(24)
    budget = FlopsBudget(0.6, calibration.tokens / 24)
    same = KPrune().prune(Job(model, objective_of(model), PruningData(calibration), budget))
    assert outcome.plan.kept == same.plan.kept
    assert outcome.details["flops_reduction"] >= 0.6
    assert outcome.details["sequence_length"] == budget.sequence_length


class Recorder:
    """A method that keeps what it was given."""

    name, needs_labels, any_budget = "recorder", False, False

    def __init__(self, needs_labels=False):
        self.needs_labels = needs_labels

    def reach(self, model, sequence_length):
        return 0.7

    def prune(self, model, objective, data, budget):
        self.objective, self.examples = objective, data.calibration.examples
        return KPrune().prune(Job(model, objective, data, budget))


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
def test_several_labels_at_once_are_compared_as_values(method):
    model = tiny_model(dtype=torch.float32)
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(UserError, match="problem_type='multi_label_classification'.* give task='regression'"):
        kprune.prune(model, batches(model), 0.5, method)
    outcome = kprune.prune(model, batches(model), 0.5, method, task="regression")
    assert outcome.details["flops_reduction"] >= 0.5
    model.config.problem_type = "regression"
    assert kprune.prune(model, batches(model), 0.5, method).plan.kept == outcome.plan.kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_for_afterwards(dtype, tmp_path):
    model = tiny_model(dtype=torch.float32)
    outcome = kprune.prune(model, batches(model), 0.5)
    with pytest.raises(UserError, match=f"is {dtype}, too coarse to measure and solve with: load the model in float32"):
        kprune.prune(model.to(dtype), batches(model), 0.5)
    outcome.model.to(dtype)
    assert kprune.load(outcome.save(tmp_path / "half")).dtype == torch.float32


def test_labels_go_to_a_method_that_needs_them():
    model, recorder = tiny_model(head="span", dtype=torch.float32), Recorder(needs_labels=True)
    spans = [
        b | {name: torch.arange(len(b["input_ids"])) for name in ("start_positions", "end_positions")}
        for b in batches(model)
    ]
    kprune.prune(model, spans, 0.5, method=recorder)
    assert recorder.examples[3]["label"] == (3, 3) and isinstance(recorder.examples[0]["label"][0], int)
    with pytest.raises(UserError, match="batch 0 has no tensor start_positions"):
        kprune.prune(model, batches(model), 0.5, method=recorder)


def test_a_speedup_in_place_of_a_reduction():
    model = tiny_model(dtype=torch.float32)
    outcome = kprune.prune(model, batches(model), speedup=1.1, speedup_at=Point(2, 8))
    # What is removed hangs on times of microseconds: on a busy machine it can be nothing.
    assert outcome.details["latency"]["batch_size"] == 2 and 0 <= outcome.details["flops_reduction"] < 1
    assert 1 <= len(outcome.details["latency_budget"]["attempts"]) <= 3
    with pytest.raises(UserError, match="speedup=1000 is out of reach"):
        kprune.prune(model, batches(model), speedup=1000, speedup_at=Point(2, 8))
    with pytest.raises(UserError, match="speedup=1 asks for no speed-up"):
        kprune.prune(model, batches(model), speedup=1)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_speedup_of_a_model_that_reads_less_than_the_standard_length(family, monkeypatch):
    model, points = tiny_model(family, dtype=torch.float32), []
    monkeypatch.setattr(
        "kprune.api.prune_to_speedup",
        lambda *a: points.append(a[-1]) or (KPrune().prune(*a[1:4], FlopsBudget(0.5, 8.0)), {}),
    )
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
        block.empty()
    for budget in (dict(flops_reduction=0.5), dict(speedup=2)):
        with pytest.raises(UserError, match="no head and no neuron left"):
            kprune.prune(model, batches(model), **budget)


def test_batches_without_a_mask_have_no_padding():
    ids = torch.randint(5, 99, (4, 6), generator=torch.Generator().manual_seed(0))
    calibration = calibration_set(tiny_model(), [{"input_ids": ids, "attention_mask": None}], None)
    assert calibration.tokens == 24


IDS = torch.full((2, 4), 7)
RIGHT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "batches is empty"),
        (None, "batches is a NoneType"),
        ({"input_ids": IDS}, "batch 0 is a str: give dicts"),
        ([(IDS, RIGHT)], "batch 0 is a tuple: give dicts"),
        ([{"attention_mask": RIGHT}], "batch 0 has no tensor input_ids, but attention_mask"),
        ([{"input_ids": [[1, 2]]}], "no tensor input_ids"),
        ([{"input_ids": IDS[0]}], r"input_ids are \[4\] torch.int64"),
        ([{"input_ids": IDS[:0]}], "batch 0 is empty"),
        ([{"input_ids": IDS, "attention_mask": RIGHT[:1]}], r"attention_mask is \[1, 4\], input_ids \[2, 4\]"),
        ([{"input_ids": IDS}, {"input_ids": IDS, "attention_mask": RIGHT * 0}], "batch 1, example 0 is padding alone"),
        ([{"input_ids": IDS, "attention_mask": RIGHT.flip(1)}], "not padded on the right"),
        ([{"input_ids": IDS * 99}], "token 693, the model's vocabulary 99"),
        ([{"input_ids": torch.full((1, 65), 7)}], "65 tokens, the model reads 64"),
    ],
)
def test_batches_that_no_model_reads(batches, message):
    with pytest.raises(UserError, match=message):
        kprune.prune(tiny_model(), batches)


def test_models_and_settings_that_do_not_work():
    model = tiny_model()
    with pytest.raises(UserError, match="method 'nonsense' is unknown: use kprune"):
        kprune.prune(model, batches(model), method="nonsense")
    with pytest.raises(UserError, match="task 'nonsense' is unknown: use classification, regression, span"):
        kprune.prune(model, batches(model), task="nonsense")
    with pytest.raises(UserError, match=r"outside \(0, 1\)"):
        kprune.prune(model, batches(model), flops_reduction=80)
    with pytest.raises(UserError, match="no head K-prune can compare"):
        kprune.prune(model.base_model, batches(model))
    with pytest.raises(UserError, match="'Linear' is not supported"):
        kprune.prune(torch.nn.Linear(2, 2), batches(model), task="classification")
    model.bert.encoder.layer[1].output.dense.weight.data[3, 4] = float("nan")
    with pytest.raises(UserError, match="bert.encoder.layer.1.output.dense.weight has values that are NaN"):
        kprune.prune(model, batches(model))


def test_a_model_built_by_a_checkpoints_own_code_is_pruned_again(tmp_path, monkeypatch):
    """As with trust_remote_code=True: the classes of emptied blocks are not kprune's."""
    folder = save(narrowed(), tmp_path / "model")
    spec = importlib.util.spec_from_file_location("shipped_modeling", folder / "modeling_kprune.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "shipped_modeling", module)
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
