"""Multiple choice: an example is several texts, and the head answers each of them."""

import pytest
import torch
from choices import CASES, choices_batch, tiny_chooser
from commands import run_plain
from tiny import tiny_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForMultipleChoice, DataCollatorForMultipleChoice

import kprune
from baselines.kwon import Kwon
from baselines.random import Random
from kprune.batches import calibration_set
from kprune.budgets.latency import measure_latency
from kprune.checkpoint import become_pruned, load, save
from kprune.data import CalibrationSet, collate
from kprune.errors import UserError
from kprune.methods.kprune.knowledge import KnowledgeSettings, measure
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.families import FAMILIES
from kprune.models.inputs import call
from kprune.models.masks import masked
from kprune.models.surgery import keep_units
from kprune.objectives import MultipleChoice, objective_of
from kprune.streams import calibration_states

GAMMA = 2.0


def inputs(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def read(model, *batches, labels=True):
    return calibration_set(model, batches, objective_of(model), labels)


def answers(model, collated):
    return objective_of(model).answers(call(model, collated), collated)


def real(logits):
    """The logits of choices that are there, example by example."""
    return torch.cat([logits[:-1].flatten(), logits[-1, :2]])


def test_every_family_that_has_the_class_is_a_case():
    known = AutoModelForMultipleChoice._model_mapping.keys()
    assert set(CASES) == {family for family in FAMILIES if CONFIG_MAPPING[family] in known}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_row_for_each_choice_gives_the_models_own_answers(case):
    model, given = tiny_chooser(case), choices_batch()
    assert isinstance(objective_of(model), MultipleChoice)
    (collated,) = read(model, given).batches(by_length=False)
    assert collated["input_ids"].shape[0] == 10 and collated["choices"].tolist() == [4, 4, 2]
    theirs = model(**inputs(given) | {"attention_mask": given["attention_mask"].clamp(min=0)}).logits
    ours = answers(model, collated)
    torch.testing.assert_close(real(ours), real(theirs), rtol=0, atol=1e-10)
    view = view_of(model)
    blocks = view.run(0, *view.embed(collated), collated)
    torch.testing.assert_close(objective_of(model).answers(blocks, collated), ours, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_pruned_is_masked_and_what_is_saved_is_that(case, tmp_path):
    model, given = tiny_chooser(case), inputs(choices_batch())
    given["attention_mask"][-1, 2:] = given["attention_mask"][-1, :2]
    view, dense = view_of(model), model(**given).logits
    generator = torch.Generator().manual_seed(1)
    masks = [(torch.rand(block.units, generator=generator) < 0.5).double() for block in view.blocks]
    masks[0].zero_()
    masks[-1].zero_()
    with masked(view, masks):
        expected = model(**given).logits
    assert (expected - dense).abs().max() > 0.05 * expected.abs().max(), "the mask does nothing"
    for block, mask in zip(view.blocks, masks, strict=True):
        keep_units(block, mask.nonzero()[:, 0])
    torch.testing.assert_close(model(**given).logits, expected, rtol=0, atol=1e-9)
    pruned = become_pruned(model.float())
    save(pruned, tmp_path / "model")
    loaded = load(tmp_path / "model")
    loaded.set_attn_implementation("eager")
    torch.testing.assert_close(loaded(**given).logits, pruned(**given).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["kprune", "kprune_plus", "kprune_plus_fast", "kprune_fast"])
def test_it_is_pruned_and_a_fresh_process_loads_it(method, tmp_path):
    model, batches = tiny_chooser(dtype=torch.float32), [choices_batch(seed) for seed in range(6)]
    outcome = kprune.prune(model, batches, 0.5, method)
    lengths = torch.cat([given["attention_mask"].sum(dim=2).flatten() for given in batches])
    assert outcome.details["sequence_length"] == pytest.approx(lengths[lengths > 0].double().mean().item())
    assert outcome.details["flops_reduction"] >= 0.5
    outcome.save(tmp_path / "model", tiny_tokenizer())
    assert "AutoModelForMultipleChoice" in (tmp_path / "model" / "README.md").read_text()
    ids = batches[0]["input_ids"]
    code = f"""
import torch
from transformers import AutoModelForMultipleChoice
model = AutoModelForMultipleChoice.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True)
print(model(torch.tensor({ids.tolist()})).logits.flatten().tolist())
"""
    found = torch.tensor(eval(run_plain(code, tmp_path)))
    torch.testing.assert_close(found, outcome.model(ids).logits.flatten(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [[2, 3], [3, 5], [6, 4]])
def test_divergence_is_the_kl_over_an_examples_own_choices(lengths):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(sum(lengths), generator=generator, dtype=torch.float64) for _ in range(2))
    given = {"attention_mask": None, "choices": torch.tensor(lengths)}
    read = [MultipleChoice().answers(type("Output", (), {"logits": z[None]}), given) for z in (student, teacher)]
    found = MultipleChoice().divergence(*read, GAMMA)
    for row, (s, t) in enumerate(zip(student.split(lengths), teacher.split(lengths), strict=True)):
        p, q = (z.div(GAMMA).softmax(0) for z in (s, t))
        assert found[row].item() == pytest.approx(GAMMA**2 * (p * (p / q).log()).sum().item(), rel=1e-9)
    assert MultipleChoice().divergence(read[0], read[0], GAMMA).abs().max() < 1e-12
    right = torch.tensor([1, 0])
    by_hand = -sum(z.log_softmax(0)[k] for z, k in zip(student.split(lengths), right, strict=True)) / 2
    torch.testing.assert_close(MultipleChoice().loss(read[0], right), by_hand)


def quadratic(logits, change, keys):
    """½ Σ_k root_k(change)² of each example."""
    variable = logits.clone().requires_grad_()
    roots = MultipleChoice().fisher_roots(variable, GAMMA, keys)
    gradients = [torch.autograd.grad(root.sum(), variable, retain_graph=True)[0] for root in roots]
    return sum((g * change).sum(dim=1) ** 2 for g in gradients) / 2


def padded(*examples):
    given = {"attention_mask": None, "choices": torch.tensor([len(z) for z in examples])}
    return MultipleChoice().answers(type("Output", (), {"logits": torch.cat(examples)[None]}), given)


def drawn(size, seed, scale=1.0):
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_roots_of_a_few_choices_are_exact_whatever_they_are_batched_with():
    few, many = drawn(3, 0), drawn(7, 1)
    change = drawn(3, 2, 1e-4)
    exact = MultipleChoice().divergence((few + change)[None], few[None], GAMMA).item()
    keys = torch.tensor([5, 6])
    alone = quadratic(few[None], change[None], keys[:1]).item()
    together = quadratic(padded(few, many), torch.stack([torch.cat([change, torch.zeros(4)]), torch.zeros(7)]), keys)
    assert alone == pytest.approx(exact, rel=1e-3) and together[0].item() == pytest.approx(alone, rel=1e-9)
    sampled = [
        quadratic(z, drawn(7, 3)[None].expand(len(z), 7), k)
        for z, k in ((many[None], keys[1:]), (padded(few, many), keys))
    ]
    torch.testing.assert_close(sampled[0][0], sampled[1][1])


def test_roots_of_many_choices_are_the_second_order_in_expectation():
    logits, change = drawn(6, 0)[None], drawn(6, 1, 1e-4)[None]
    exact = MultipleChoice().divergence(logits + change, logits, GAMMA).item()
    found = quadratic(logits.expand(40_000, 6), change, torch.arange(40_000))
    assert found.std() > 0, "the signs are not random"
    assert found.mean().item() == pytest.approx(exact, rel=0.03)


def test_knowledge_is_the_fisher_of_examples_not_of_choices():
    """Brute force: the divergence of each example, differentiated by a mask on each unit."""
    model = tiny_chooser()
    student, teacher = view_of(frozen_copy(model)), view_of(model)
    keep_units(student.blocks[0], torch.tensor([0, 2]))
    collated = read(model, choices_batch(), choices_batch(1)).batches()[0]
    objective = objective_of(model)
    states = calibration_states(student, [collated])
    with torch.no_grad():
        target = answers(model, collated)
        states[0].student = student.blocks[0].run(states[0].student, states[0].context)
    found = measure(student, 1, states, [target], objective, KnowledgeSettings())
    masks = [torch.ones(block.units, dtype=torch.float64, requires_grad=True) for block in student.blocks]
    with masked(student, masks):
        divergence = objective.divergence(answers(student.model, collated), target, 2.0)
    for index, mask in enumerate(masks[1:]):
        rows = [torch.autograd.grad(one, mask, retain_graph=True)[0] for one in divergence]
        expected = torch.stack(rows).square().sum(dim=0) / (2 * len(rows))
        torch.testing.assert_close(found.predictive[index], expected)
    assert teacher.blocks[0].units > student.blocks[0].units


@torch.no_grad()
def test_parts_of_a_batch_are_whole_examples():
    model = tiny_chooser("deberta-v2")
    collated = read(model, choices_batch(), choices_batch(1)).batches()[0]
    (state,) = calibration_states(view_of(model), [collated])
    whole, keys = answers(model, collated), state.keys
    assert len(keys) == state.examples == 3
    for which in (slice(0, 1), slice(1, None), slice(0, None, 2)):
        part = state.some_examples(which)
        assert part.keys.tolist() == keys[which].tolist()
        own = view_of(model).run(0, part.student, part.context, part.batch)
        found = objective_of(model).answers(own, part.batch)
        torch.testing.assert_close(found, whole[which][:, : found.shape[1]])


def test_batches_of_transformers_collator_and_flat_ones_are_read_alike():
    tokenizer = tiny_tokenizer()
    rows = [
        {"input_ids": [[5, 6, 7], [8, 9]], "attention_mask": [[1, 1, 1], [1, 1]], "label": 1},
        {"input_ids": [[10], [11, 12, 13, 14]], "attention_mask": [[1], [1, 1, 1, 1]], "label": 0},
    ]
    given = dict(DataCollatorForMultipleChoice(tokenizer)(rows))
    model = tiny_chooser()
    expected = [
        {"input_ids": [5, 6, 7, 8, 9], "choices": [3, 2], "label": 1},
        {"input_ids": [10, 11, 12, 13, 14], "choices": [1, 4], "label": 0},
    ]
    assert read(model, given).examples == expected
    flat = {name: value if name == "labels" else value.flatten(0, 1) for name, value in given.items()}
    assert read(model, flat).examples == expected
    typed = given | {"token_type_ids": torch.zeros_like(given["input_ids"])}
    assert read(model, typed).examples[0]["token_type_ids"] == [0] * 5
    uneven = [*expected, {"input_ids": [5, 6, 7], "choices": [1, 1, 1], "label": 2}]
    assert read(model, collate(uneven, 1)).examples == uneven
    again = collate(expected, 1)
    assert again["choices"].tolist() == [2, 2] and again["labels"].tolist() == [1, 0]
    assert again["attention_mask"].sum(dim=1).tolist() == [3, 2, 1, 4]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda b: inputs(b) | {"input_ids": b["input_ids"][0]},
            r"input_ids are \[4, 10\], and .* reads \[examples, choices",
        ),
        (lambda b: {name: value[:, :1] if value.dim() == 3 else value for name, value in b.items()}, "has one choice"),
        (
            lambda b: b | {"attention_mask": b["attention_mask"].flip(1)},
            "example 2 has a choice of padding alone before",
        ),
        (lambda b: b | {"attention_mask": b["attention_mask"] * 0}, "example 0 is padding alone"),
        (lambda b: b | {"attention_mask": b["attention_mask"][..., 1:]}, r"attention_mask is \[3, 4, 9\], input_ids"),
        (lambda b: b | {"labels": b["labels"] + 2}, "example 2: labels is [23], not a whole number from 0 to 1"),
        (lambda b: b | {"labels": b["labels"] - 9}, "labels is -9"),
        (
            lambda b: {"input_ids": b["input_ids"].flatten(0, 1), "choices": torch.tensor([4, 4])},
            r"choices are \[4, 4\], and input_ids have 12 rows",
        ),
        (lambda b: b | {"labels": b["labels"][:2]}, r"labels is \[2\], and there are 3 examples"),
        (lambda b: b | {"input_ids": b["input_ids"].float()}, r"give integers \[examples, choices, length\]"),
        (lambda b: b | {"input_ids": b["input_ids"] + 99}, "vocabulary is 99"),
    ],
)
def test_bad_batches_are_one_line(change, message):
    given = choices_batch()
    given["labels"] = torch.zeros_like(given["labels"])
    given["labels"][-1] = 1
    with pytest.raises(UserError, match=message) as error:
        read(tiny_chooser(), change(given))
    assert "\n" not in str(error.value)


def test_padding_before_choices_is_refused_where_the_head_reads_the_first_token():
    given = choices_batch()
    left = {name: value.flip(2) if value.dim() == 3 else value for name, value in given.items()}
    with pytest.raises(UserError, match="padded on the left"):
        read(tiny_chooser(), left)


@pytest.mark.parametrize("method", [Kwon(), Random()])
def test_other_methods_prune_it(method):
    batches = [choices_batch(seed) for seed in range(6)]
    assert kprune.prune(tiny_chooser(dtype=torch.float32), batches, 0.4, method).details["flops_reduction"] >= 0.4


def test_its_speed_is_measured_and_onnx_answers_alike(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = tiny_chooser(dtype=torch.float32)
    outcome = kprune.prune(model, [choices_batch()], 0.5, "random")
    assert measure_latency(model, outcome.model, 2, 8)["dense_ms"] > 0
    outcome.save(tmp_path / "model", onnx=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "model" / "model.onnx"))
    for examples, choices, length in ((3, 4, 10), (1, 5, 7)):
        ids = torch.randint(5, 99, (examples, choices, length), generator=torch.Generator().manual_seed(0))
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        names = {entry.name for entry in session.get_inputs()}
        (found,) = session.run(None, {name: value.numpy() for name, value in given.items() if name in names})
        expected = outcome.model(ids, attention_mask=given["attention_mask"]).logits.detach()
        torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-4)


def test_batches_are_as_large_as_asked_for():
    examples = read(tiny_chooser(), choices_batch(), choices_batch(1)).examples
    steps = CalibrationSet(examples, 2, 1).steps(80)
    assert all(step["input_ids"].numel() <= 80 or len(step["choices"]) == 1 for step in steps)
    assert sum(len(step["choices"]) for step in steps) == 6
    assert any(len(step["choices"]) > 1 for step in steps)
