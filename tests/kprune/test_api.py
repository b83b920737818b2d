"""`kprune.prune` as a user calls it: their own model and batches in, an outcome back."""

import copy
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from api import HalfSpan, Recorder, kept, padded_batches
from commands import run_python
from tiny import FAMILY_AND_HEAD, narrowed, tiny_batch, tiny_calibration, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import kprune
from kprune.budgets import FlopsBudget
from kprune.budgets.latency import Point
from kprune.budgets.latency.timing import random_batch
from kprune.checkpoint import save
from kprune.contract import Job, PruningData
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.registry import build
from kprune.models import view_of
from kprune.models.surgery import keep_units
from kprune.objectives import Regression, objective_of

ROOT = Path(__file__).parents[2]


def example(name):
    """The python block of the README behind its `<!-- tested: name -->`."""
    return re.search(rf"<!-- tested: {name} -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


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
    outcome = kprune.prune(model, padded_batches(model), flops_reduction=0.6, method="kprune")
    calibration = tiny_calibration(24)
    budget = FlopsBudget(0.6, calibration.tokens / 24)
    same = KPrune().prune(Job(model, objective_of(model), PruningData(calibration), budget))
    assert outcome.plan.kept == same.plan.kept
    assert outcome.details["flops_reduction"] >= 0.6
    assert outcome.details["sequence_length"] == budget.sequence_length


def test_methods_and_tasks_of_ones_own():
    model, recorder = tiny_model(head="regression", dtype=torch.float32), Recorder()
    model.config.problem_type, labelled = (
        None,
        [b | {"labels": torch.zeros(len(b["input_ids"]))} for b in padded_batches(model)],
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
        kprune.prune(model, padded_batches(model), 0.5, method, task="classification")
    outcome = kprune.prune(model, padded_batches(model), 0.5, method, task="regression")
    assert outcome.details["flops_reduction"] >= 0.5
    model.config.problem_type = "regression"
    assert kprune.prune(model, padded_batches(model), 0.5, method).plan.kept == outcome.plan.kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_for_afterwards(dtype, tmp_path):
    model = tiny_model(dtype=torch.float32)
    outcome = kprune.prune(model, padded_batches(model), 0.5)
    with pytest.raises(UserError, match=f"is {dtype}, too coarse to measure and solve with: load the model in float32"):
        kprune.prune(model.to(dtype), padded_batches(model), 0.5)
    outcome.model.to(dtype)
    assert kprune.load(outcome.save(tmp_path / "half")).dtype == torch.float32


def test_labels_go_to_a_method_that_needs_them():
    model, recorder = tiny_model(head="span", dtype=torch.float32), Recorder(needs={"labels"})
    spans = [
        b | {name: torch.arange(len(b["input_ids"])) for name in ("start_positions", "end_positions")}
        for b in padded_batches(model)
    ]
    kprune.prune(model, spans, 0.5, method=recorder)
    assert recorder.examples[3]["label"] == (3, 3) and isinstance(recorder.examples[0]["label"][0], int)
    with pytest.raises(UserError, match="batch 0 has no tensor start_positions"):
        kprune.prune(model, padded_batches(model), 0.5, method=recorder)


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
    outcome = kprune.prune(model, padded_batches(model), speedup=1.1, speedup_at=Point(4, 32))
    # What is removed hangs on times of microseconds: on a busy machine it can be nothing.
    assert outcome.details["latency"]["batch_size"] == 4 and 0 <= outcome.details["flops_reduction"] < 1
    assert 1 <= len(outcome.details["latency_budget"]["attempts"]) <= 3
    with pytest.raises(UserError, match="speedup=1000 is out of reach"):
        kprune.prune(model, padded_batches(model), speedup=1000, speedup_at=Point(2, 8))
    with pytest.raises(UserError, match="speedup=1 asks for no speed-up"):
        kprune.prune(model, padded_batches(model), speedup=1)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_speedup_of_a_model_that_reads_less_than_the_standard_length(family, monkeypatch):
    model, points = tiny_model(family, dtype=torch.float32), []

    def at_half(method, model, objective, data, speedup, length, point, *widths):
        points.append(point)
        return method.prune(Job(model, objective, data, FlopsBudget(0.5, 8.0))), {}

    monkeypatch.setattr("kprune.api.prune_to_speedup", at_half)
    kprune.prune(model, padded_batches(model), speedup=1.1)
    longest = {"bert": 64, "roberta": 62}[family]
    assert points == [Point(32, longest)]
    model(**random_batch(model, 2, longest))
    with pytest.raises(UserError, match=f"on {longest + 1} tokens, the model reads {longest}: give a shorter length"):
        random_batch(model, 2, longest + 1)


def test_a_model_without_any_unit():
    model = tiny_model(dtype=torch.float32)
    for block in view_of(model).blocks:
        keep_units(block, torch.arange(0))
    for budget in (dict(flops_reduction=0.5), dict(speedup=2)):
        with pytest.raises(UserError, match="no head and no neuron left"):
            kprune.prune(model, padded_batches(model), **budget)


def test_a_model_built_by_a_checkpoints_own_code_is_pruned_again(tmp_path, monkeypatch):
    """As with trust_remote_code=True: the classes of emptied blocks are not kprune's."""
    folder = save(narrowed(), tmp_path / "model")
    spec = importlib.util.spec_from_file_location("shipped_modeling_kprune", folder / "modeling_kprune.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "shipped_modeling_kprune", module)
    spec.loader.exec_module(module)
    model = module.PrunedBertForSequenceClassification.from_pretrained(folder)
    outcome = kprune.prune(model, padded_batches(model), 0.5)
    assert outcome.kept_heads[0] == 0 and outcome.details["flops_reduction"] >= 0.5
    outcome.save(tmp_path / "again")
    batch = tiny_batch()
    assert torch.equal(kprune.load(tmp_path / "again")(**batch).logits, outcome.model.eval()(**batch).logits)


def test_importing_kprune_imports_no_torch():
    script = "import kprune, kprune.errors, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_an_objective_of_ones_own_stays_what_it_is(monkeypatch):
    seen = []
    divergence = HalfSpan.divergence
    monkeypatch.setattr(HalfSpan, "divergence", lambda self, *args: seen.append(self) or divergence(self, *args))
    model = tiny_model(head="span", dtype=torch.float32)
    own = HalfSpan(0.5)
    for method in ("kprune_official", "kprune"):
        kprune.prune(model, padded_batches(model), 0.5, build(method, {"lambdas": [0.1, 1.0]}), task=own)
    assert {type(objective) for objective in seen} == {HalfSpan} and {o.weight for o in seen} == {0.5}
    assert own.keep_padding is False


def test_tuples_for_outputs_change_nothing():
    model = tiny_model(dtype=torch.float32)
    expected = kept(model, padded_batches(model)), kept(model, padded_batches(model), method="kprune_plus")
    model.config.return_dict = False
    assert (kept(model, padded_batches(model)), kept(model, padded_batches(model), method="kprune_plus")) == expected
    assert model.config.return_dict is False


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
def test_within_inference_mode(method):
    expected = kept(tiny_model(dtype=torch.float32), padded_batches(tiny_model()), method=method)
    with torch.inference_mode():
        model = tiny_model(dtype=torch.float32)
        outcome = kprune.prune(model, padded_batches(model), 0.5, method)
    assert outcome.plan.kept == expected
    outcome.model.train()(**tiny_batch()).logits.sum().backward()


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
    labelled = [b | {"labels": torch.zeros(len(b["input_ids"]), dtype=torch.long)} for b in padded_batches(model)]
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
