"""Heads that give more than one label: a class for every token, a yes or no for every label."""

import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_calibration, tiny_labelled, tiny_model, tiny_tokenizer
from transformers import AutoModelForTokenClassification, pipeline

import kprune
from baselines.kwon import Kwon
from baselines.random import Random
from kprune.batches import calibration_set
from kprune.data import collate
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.masks import masked
from kprune.objectives import MultiLabel, TokenClassification, objective_of

HEADS = {"token_classification": TokenClassification, "multi_label": MultiLabel}
GAMMA = 2.0


def drawn(*shape, scale=1.0, seed=0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fisher_quadratic(objective, logits, change, keys):
    """½ Σ_k root_k(change)² for every key's random signs."""
    variable = logits.expand(len(keys), *logits.shape[1:]).clone().requires_grad_()
    roots = objective.fisher_roots(variable, GAMMA, keys)
    gradients = [torch.autograd.grad(root.sum(), variable, retain_graph=True)[0] for root in roots]
    return sum((g * change).flatten(1).sum(dim=1) ** 2 for g in gradients) / 2


@pytest.mark.parametrize("head, kind", HEADS.items())
def test_the_head_is_told_by_the_model(head, kind):
    assert type(objective_of(tiny_model(head=head))) is kind


def test_one_output_that_is_a_yes_or_no_is_no_regression():
    model = tiny_model(head="multi_label")
    model.config.num_labels = 1
    assert isinstance(objective_of(model), MultiLabel)


def test_divergence_of_tokens_is_the_kl_of_every_real_one():
    model, batch = tiny_model(head="token_classification"), tiny_batch()
    objective, mask = objective_of(model), batch["attention_mask"]
    assert (mask == 0).any()
    teacher = objective.read(model(**batch), mask).detach()
    student = objective.read(type("Output", (), {"logits": teacher + drawn(*teacher.shape)}), mask)
    found = objective.divergence(student, teacher, GAMMA)
    for row, real in enumerate(mask.bool()):
        p, q = (z[row, real].div(GAMMA).softmax(-1) for z in (student, teacher))
        assert found[row].item() == pytest.approx(GAMMA**2 * (p * (p / q).log()).sum().item(), rel=1e-9)
    assert objective.divergence(teacher, teacher, GAMMA).abs().max() < 1e-12


def test_divergence_of_labels_is_the_sum_of_their_binary_kls():
    student, teacher = drawn(5, 4, seed=1), drawn(5, 4, seed=2)
    p, q = (z.div(GAMMA).sigmoid() for z in (student, teacher))
    expected = GAMMA**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(dim=1)
    torch.testing.assert_close(MultiLabel().divergence(student, teacher, GAMMA), expected)


def test_the_divergence_of_sure_answers_is_finite():
    sure = torch.tensor([[200.0, -200.0]])
    assert MultiLabel().divergence(sure, -sure, 1.0).item() == pytest.approx(400.0)


def test_roots_of_a_few_labels_are_the_second_order_of_the_divergence():
    logits, change = drawn(5, 3), drawn(5, 3, scale=1e-4, seed=1)
    divergence = MultiLabel().divergence(logits + change, logits, GAMMA)
    found = torch.cat(
        [
            fisher_quadratic(MultiLabel(), z[None], c[None], torch.zeros(1).long())
            for z, c in zip(logits, change, strict=True)
        ]
    )
    torch.testing.assert_close(found, divergence, rtol=1e-3, atol=0)


@pytest.mark.parametrize("objective, shape", [(TokenClassification(), (1, 3, 5)), (MultiLabel(), (1, 9))])
def test_roots_are_the_second_order_of_the_divergence_in_expectation(objective, shape):
    logits, change = drawn(*shape), drawn(*shape, scale=1e-4, seed=1)
    exact = objective.divergence(logits + change, logits, GAMMA).item()
    found = fisher_quadratic(objective, logits, change, torch.arange(40_000))
    assert found.std() > 0, "the signs are not random"
    assert found.mean().item() == pytest.approx(exact, rel=0.03)


def test_padding_draws_the_same_signs():
    logits, keys = drawn(2, 4, 3), torch.tensor([3, 4])
    padded = torch.cat([logits, torch.zeros(2, 2, 3)], dim=1)
    (short,), (long,) = (TokenClassification().fisher_roots(z, GAMMA, keys) for z in (logits, padded))
    torch.testing.assert_close(short, long)


def test_labels_of_tokens_are_filled_up_and_ignored():
    rows = [{"input_ids": [5, 6, 7], "label": [-100, 1, 2]}, {"input_ids": [8], "label": [0]}]
    labels = collate(rows, 1)["labels"]
    assert labels.tolist() == [[-100, 1, 2], [0, -100, -100]]
    logits = drawn(2, 3, 4)
    chosen = [logits[0, 1].log_softmax(0)[1], logits[0, 2].log_softmax(0)[2], logits[1, 0].log_softmax(0)[0]]
    torch.testing.assert_close(TokenClassification().loss(logits, labels), -sum(chosen) / 3)
    assert TokenClassification().loss(logits, torch.full_like(labels, -100)) == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_pruned_is_masked(family, head):
    """Without any tuning of what is left."""
    model = tiny_model(family, head)
    outcome = kprune.prune(model, tiny_calibration(24).batches(), 0.5, method=Random())
    masks = []
    for block, kept in zip(view_of(model).blocks, outcome.plan.kept.values(), strict=True):
        masks.append(torch.zeros(block.units, dtype=torch.float64))
        masks[-1][torch.tensor(kept, dtype=torch.long)] = 1.0
    batch = tiny_batch()
    with masked(view_of(model), masks):
        expected = model(**batch).logits
    assert (expected - model(**batch).logits).abs().max() > 1e-3
    torch.testing.assert_close(outcome.model(**batch).logits, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
@pytest.mark.parametrize("head", HEADS)
def test_it_is_pruned_saved_and_loaded(head, method, tmp_path):
    model, batch = tiny_model(head=head, dtype=torch.float32), tiny_batch()
    outcome = kprune.prune(model, tiny_calibration(24).batches(), 0.5, method)
    assert outcome.details["flops_reduction"] >= 0.5
    outcome.save(tmp_path / "model")
    loaded = kprune.load(tmp_path / "model")
    assert type(objective_of(loaded)) is HEADS[head]
    torch.testing.assert_close(loaded(**batch).logits, outcome.model(**batch).logits, rtol=0, atol=1e-6)


def test_a_pipeline_opens_a_pruned_token_classifier(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_model(head="token_classification", dtype=torch.float32)
    model.config.id2label = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}
    outcome = kprune.prune(model, tiny_calibration(24).batches(), 0.5)
    outcome.save(tmp_path / "model", tokenizer)
    assert AutoModelForTokenClassification.__name__ in (tmp_path / "model" / "README.md").read_text()
    tagger = pipeline("token-classification", str(tmp_path / "model"), trust_remote_code=True, ignore_labels=[])
    found = [entry["entity"] for entry in tagger("w5 w6 w7")]
    places = outcome.model(**tokenizer("w5 w6 w7", return_tensors="pt")).logits[0].argmax(dim=-1).tolist()
    assert found == [model.config.id2label[place] for place in places]


def labelled_batches(head):
    return tiny_labelled(head, examples=24).batches()


@pytest.mark.parametrize("head", HEADS)
def test_a_method_that_needs_labels_gets_them_without_padding(head):
    model, examples = tiny_model(head=head, dtype=torch.float32), tiny_labelled(head, examples=24).examples
    read = calibration_set(model, labelled_batches(head), objective_of(model), labels=True)
    by_tokens = lambda example: example["input_ids"]  # noqa: E731
    assert sorted(read.examples, key=by_tokens) == sorted(examples, key=by_tokens)
    assert kprune.prune(model, labelled_batches(head), 0.4, Kwon()).details["flops_reduction"] >= 0.4


@pytest.mark.parametrize(
    "head, wrong, message",
    [
        (
            "token_classification",
            lambda labels: labels[:, 0],
            r"a token_classification head needs \[4, \d+\], one for each token",
        ),
        ("token_classification", lambda labels: labels.clamp(min=4), "labels is 4, not a whole number from 0 to 3"),
        ("token_classification", lambda labels: labels.double(), "labels is .*not a whole number from 0 to 3"),
        ("multi_label", lambda labels: labels[:, :2], r"a multi_label head needs \[4, 3\], one for each output"),
        ("multi_label", lambda labels: labels[:, 0], r"a multi_label head needs \[4, 3\]"),
        ("multi_label", lambda labels: labels + 0.5, "labels is .*5, not a whole number from 0 to 1"),
    ],
)
def test_labels_of_another_kind_are_refused(head, wrong, message):
    batches = labelled_batches(head)
    batches[0]["labels"] = wrong(batches[0]["labels"])
    with pytest.raises(UserError, match=message):
        kprune.prune(tiny_model(head=head, dtype=torch.float32), batches, 0.4, Kwon())
