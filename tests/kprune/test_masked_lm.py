"""Masked language models: which tokens are masked, what is compared at them, and a pruned one fine-tuned with another head."""

import json
import re

import pytest
import torch
from masked_lm import CONFIGS, masking_tokenizer, sentences, tiny_masked_lm
from tiny import tiny_model
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    pipeline,
)

import kprune
from baselines.kwon import Kwon
from baselines.random import Random
from kprune.batches import calibration_set
from kprune.cli import main
from kprune.data import CalibrationSet, collate
from kprune.errors import UserError
from kprune.masked_tokens import mask_tokens
from kprune.models import view_of
from kprune.models.masks import masked
from kprune.objectives import MaskedLM, objective_of
from kprune.objectives.masked_lm import packed
from kprune.streams import TeacherLogits, calibration_states

MASK = 4
GAMMA = 2.0


def examples(count=24):
    return [
        mask_tokens({"input_ids": ids}, masking_tokenizer())
        for ids in masking_tokenizer()(sentences(count))["input_ids"]
    ]


def batches(count=24):
    return CalibrationSet(examples(count), 4, 1).batches()


def drawn(*shape, scale=1.0, seed=0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_share_of_the_words_is_masked_and_labelled():
    ids = masking_tokenizer()(" ".join(f"w{i}" for i in range(60)))["input_ids"]
    example = mask_tokens({"input_ids": ids, "token_type_ids": [0] * 62}, masking_tokenizer())
    places = [place for place, token in enumerate(example["input_ids"]) if token == MASK]
    assert len(places) == 9 and 0 not in places and 61 not in places
    assert example["label"] == [token if place in places else -100 for place, token in enumerate(ids)]
    assert [t for p, t in enumerate(example["input_ids"]) if p not in places] == [
        t for p, t in enumerate(ids) if p not in places
    ]
    assert example["token_type_ids"] == [0] * 62


def test_masks_are_drawn_by_the_tokens_alone():
    ids = masking_tokenizer()(sentences(8))["input_ids"]
    forth = [mask_tokens({"input_ids": each}, masking_tokenizer()) for each in ids]
    back = [mask_tokens({"input_ids": each}, masking_tokenizer()) for each in reversed(ids)]
    assert forth == back[::-1]
    places = {tuple(place for place, token in enumerate(e["input_ids"]) if token == MASK) for e in forth}
    assert len(places) > 3  # not the same for all
    assert mask_tokens({"input_ids": [2, 7, 3]}, masking_tokenizer())["input_ids"] == [2, MASK, 3]  # one at least
    assert mask_tokens({"input_ids": [2, 3]}, masking_tokenizer())["label"] == [-100, -100]


def test_what_is_asked_for_is_packed_in_its_order():
    values = drawn(3, 5, 2)
    asked = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    found = packed(values, asked)
    assert found.shape == (3, 3, 2)
    assert torch.equal(found[0], values[0, [1, 3, 4]]) and torch.equal(found[1, 0], values[1, 0])
    assert not found[1, 1:].any() and not found[2].any()
    assert packed(values, torch.zeros_like(asked)).shape == (3, 0, 2)


@torch.no_grad()
def test_divergence_is_the_kl_of_every_masked_token():
    model, batch = tiny_masked_lm(dtype=torch.float64), collate(examples(3), 1)
    objective = objective_of(model)
    assert type(objective) is MaskedLM
    output = model(**{name: batch[name] for name in ("input_ids", "attention_mask")})
    changed = type("Output", (), {"logits": output.logits + drawn(*output.logits.shape)})
    teacher, student = (objective.answers(each, batch) for each in (output, changed))
    found = objective.divergence(student, teacher, GAMMA)
    for row, asked in enumerate(batch["labels"] != -100):
        p, q = (z.logits[row, asked].div(GAMMA).softmax(-1) for z in (changed, output))
        assert found[row].item() == pytest.approx(GAMMA**2 * (p * (p / q).log()).sum().item(), rel=1e-9)
    assert objective.divergence(teacher, teacher, GAMMA).abs().max() < 1e-12
    assert objective.answered(batch).sum() == (batch["labels"] != -100).sum()


@torch.no_grad()
def test_the_loss_is_transformers_own():
    model, batch = tiny_masked_lm(), collate(examples(5), 1)
    output = model(**batch)
    ours = objective_of(model).loss(objective_of(model).answers(output, batch), batch["labels"])
    torch.testing.assert_close(ours, output.loss)


def test_roots_are_the_second_order_of_the_divergence_in_expectation():
    logits, change = drawn(1, 3, 7), drawn(1, 3, 7, scale=1e-4, seed=1)
    exact = MaskedLM().divergence(logits + change, logits, GAMMA).item()
    found = []
    for key in range(2000):
        z = logits.clone().requires_grad_()
        (root,) = MaskedLM().fisher_roots(z, GAMMA, torch.tensor([key]))
        found.append((torch.autograd.grad(root.sum(), z)[0] * change).sum().item() ** 2 / 2)
    assert sum(found) / len(found) == pytest.approx(exact, rel=0.1)
    empty = torch.zeros(2, 0, 7, requires_grad=True)
    assert MaskedLM().fisher_roots(empty, GAMMA, torch.tensor([1, 2]))[0].tolist() == [0.0, 0.0]


@torch.no_grad()
def test_of_the_teachers_logits_and_hidden_states_the_smaller_is_kept():
    model = tiny_masked_lm(dtype=torch.float64)
    view, objective = view_of(model), objective_of(model)
    few, all_tokens = batches()[:2]
    all_tokens["labels"] = all_tokens["input_ids"]
    states = calibration_states(view, [few, all_tokens])
    answers = TeacherLogits(view, states, objective)
    for logits, state in zip(answers, states, strict=True):
        inputs = {name: state.batch[name] for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(logits, objective.answers(model(**inputs), state.batch))
    (small, first, _), (hidden, second, _) = answers._kept
    assert first and not second
    assert small.shape[-1] == 99 and hidden.shape == states[1].teacher.shape


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_blocks_are_the_model_and_pruned_is_masked(family):
    model = tiny_masked_lm(family, torch.float64)
    batch = batches()[2]
    view = view_of(model)
    ours = view.run(0, *view.embed(batch), batch).logits
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(ours, model(**inputs).logits, rtol=0, atol=1e-11)
    outcome = kprune.prune(model, batches(), 0.5, method=Random())
    masks = []
    for block, kept in zip(view.blocks, outcome.plan.kept.values(), strict=True):
        masks.append(torch.zeros(block.units, dtype=torch.float64))
        masks[-1][torch.tensor(kept, dtype=torch.long)] = 1.0
    with masked(view, masks):
        expected = model(**inputs).logits
    assert (expected - model(**inputs).logits).abs().max() > 1e-3
    torch.testing.assert_close(outcome.model(**inputs).logits, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("method", ["kprune", "kprune_plus_fast"])
def test_plain_transformers_loads_what_was_pruned(family, method, tmp_path):
    model, batch = tiny_masked_lm(family), batches()[0]
    outcome = kprune.prune(model, batches(), 0.5, method)
    assert outcome.details["flops_reduction"] >= 0.5 - 1e-9
    outcome.save(tmp_path / "small", masking_tokenizer())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = outcome.model(**inputs).logits
        for loaded in (
            AutoModelForMaskedLM.from_pretrained(tmp_path / "small", trust_remote_code=True),
            kprune.load(tmp_path / "small"),
        ):
            torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
def test_batching_changes_no_unit(method):
    model, rows = tiny_masked_lm(dtype=torch.float64), examples()
    plans = [
        kprune.prune(model, CalibrationSet(each, size, 1).batches(by_length=False), 0.5, method).plan
        for each, size in ((rows, 4), (rows[::-1], 7))
    ]
    assert plans[0] == plans[1]


@pytest.fixture
def folder(tmp_path):
    return kprune.prune(tiny_masked_lm(), batches(), 0.5, "kprune_plus_fast").save(
        tmp_path / "small", masking_tokenizer()
    )


def test_a_pipeline_fills_masks(folder):
    fill = pipeline("fill-mask", str(folder), trust_remote_code=True)
    (best, *_) = fill("w5 [MASK] w7")
    logits = kprune.load(folder)(**masking_tokenizer()("w5 [MASK] w7", return_tensors="pt")).logits[0, 2]
    assert best["token"] == int(logits.argmax())
    assert "AutoModelForMaskedLM" in (folder / "README.md").read_text()


def test_a_pruned_model_is_fine_tuned_with_another_head_by_the_trainer(folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, trust_remote_code=True)
    pruned = kprune.load(folder)
    for name, weight in pruned.bert.encoder.named_parameters():
        assert torch.equal(weight, model.bert.encoder.get_parameter(name))
    rows = [{**masking_tokenizer()(text, truncation=True), "labels": i % 2} for i, text in enumerate(sentences(16))]
    settings = TrainingArguments(
        str(tmp_path / "run"), num_train_epochs=1, per_device_train_batch_size=4, report_to=[], use_cpu=True
    )
    trainer = Trainer(model, settings, train_dataset=rows, processing_class=masking_tokenizer())
    trainer.train()
    trainer.save_model(str(tmp_path / "tuned"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned", trust_remote_code=True)
    inputs = masking_tokenizer()("w5 w6", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**inputs).logits, model.cpu().eval()(**inputs).logits)
    assert not torch.equal(
        again.bert.encoder.layer[0].output.dense.weight, pruned.bert.encoder.layer[0].output.dense.weight
    )


def test_batches_of_transformers_own_collator_are_read():
    collator = DataCollatorForLanguageModeling(masking_tokenizer(), seed=0)
    rows = [collator([masking_tokenizer()(text) for text in sentences(24)[start : start + 8]]) for start in (0, 8, 16)]
    assert any((batch["labels"] != -100).any() for batch in rows)
    assert kprune.prune(tiny_masked_lm(), rows, 0.5, "kprune").details["flops_reduction"] >= 0.5


def test_a_method_that_reads_labels_takes_the_masked_tokens():
    read = calibration_set(tiny_masked_lm(), batches(), MaskedLM(), labels=False)
    assert sorted(read.examples, key=str) == sorted(examples(), key=str)
    assert kprune.prune(tiny_masked_lm(), batches(), 0.4, Kwon()).details["flops_reduction"] >= 0.4


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda batch: batch.pop("labels"), "has no labels.*DataCollatorForLanguageModeling"),
        (lambda batch: batch.update(labels=batch["labels"].clamp(max=-100) + 200), "not a whole number from 0 to 98"),
        (lambda batch: batch.update(labels=batch["labels"][:, 0]), "a masked_lm head needs"),
        (lambda batch: batch["labels"].fill_(-100), "no batch has a label other than -100.*LanguageModeling"),
    ],
)
def test_batches_that_say_no_masked_tokens_are_refused(change, message):
    wrong = batches()[:1]
    change(wrong[0])
    with pytest.raises(UserError, match=message) as error:
        kprune.prune(tiny_masked_lm(), wrong, 0.5)
    assert "\n" not in str(error.value)


@pytest.fixture
def checkpoint(tmp_path):
    tiny_masked_lm().save_pretrained(tmp_path / "checkpoint")
    masking_tokenizer().save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "texts.txt").write_text("\n".join(sentences(60)))
    return tmp_path / "checkpoint", tmp_path / "texts.txt"


def test_the_command_masks_the_texts(checkpoint, tmp_path, capsys):
    given = [*map(str, checkpoint), "--threads", "1"]
    threads = torch.get_num_threads()
    assert main(["prune", *given, "--output", str(tmp_path / "small"), "--method", "kprune"]) == 0
    out, _ = capsys.readouterr()
    assert re.search(r"[\d.]+ nats a masked token \(KL\).*the likeliest masked token is the same for [\d.]+ %", out)
    assert "AutoModelForMaskedLM.from_pretrained" in out
    assert main(["compare", given[0], given[0], *given[1:]]) == 0
    out, _ = capsys.readouterr()
    assert re.search(r"divergence from the dense model: \S+ nats a masked token.*the same for 100.0 %", out)
    torch.set_num_threads(threads)


def test_texts_of_unknown_words_are_left_out(checkpoint, tmp_path, capsys):
    folder, texts = checkpoint
    unknown = tmp_path / "unknown.txt"
    unknown.write_text("x y z\n" * 3 + "x\ny\n")
    assert main(["prune", str(folder), str(unknown), "--output", str(tmp_path / "small")]) == 2
    assert capsys.readouterr().err == (
        f"error: the tokenizer knows no word of the texts in {unknown}, so there is none to mask: check file and tokenizer\n"
    )
    # One of ten texts is held out to compare on, whichever: with those left out, each has something to be asked for.
    texts.write_text("\n".join([*(f"x{i} y" for i in range(30)), *sentences(12)]))
    command = ["prune", str(folder), str(texts), "--output", str(tmp_path / "small"), "--method", "kprune", "--seed"]
    for seed in ("0", "1"):
        assert main([*command, seed]) == 0
        assert " on 10 texts " in capsys.readouterr().err


def test_a_tokenizer_without_a_mask_token_is_refused(checkpoint, tmp_path, capsys):
    file = checkpoint[0] / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "mask_token"}))
    assert main(["prune", *map(str, checkpoint), "--output", str(tmp_path / "small")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no mask token" in line


def test_another_task_does_not_suit_the_model():
    with pytest.raises(UserError, match="task 'masked_lm' is for a ...ForMaskedLM model, this is a BertForSequence"):
        kprune.prune(tiny_model(dtype=torch.float32), batches(), 0.5, task="masked_lm")
