"""Knowledge against its definition: explicit masks, one example at a time, and outputs of single units."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import FAMILIES, HEADS, tiny_calibration, tiny_model
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from kprune.data import CalibrationSet, collate
from kprune.errors import UserError
from kprune.methods.kprune.knowledge import KnowledgeSettings, measure
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.masks import masked
from kprune.models.surgery import keep_units
from kprune.objectives import Span, objective_of
from kprune.streams import TeacherLogits, calibration_states

OFFICIAL = KnowledgeSettings(kl="teacher_student", gradient="batch", head="mean_of_dimensions")


def student_and_teacher(family="bert", head="classification"):
    """A student that lost half of its first block, so that K_pred is not zero."""
    teacher = tiny_model(family, head)
    student = copy.deepcopy(teacher)
    keep_units(view_of(student).blocks[0], torch.tensor([0, 2]))
    return view_of(frozen_copy(student)), view_of(frozen_copy(teacher))


def states_of(student, teacher, objective, batches, start=1):
    """Both models' states at the input of block `start`, and the teacher's logits."""
    states = calibration_states(teacher, batches)
    logits = TeacherLogits(teacher, states, objective)
    with torch.no_grad():
        for state in states:
            for index in range(start):
                state.student = student.blocks[index].run(state.student, state.context)
    return states, logits


def literal_divergence(head, student, teacher, temperature, length):
    """K_pred of one unpadded example, written out from eq. 4."""

    def kl(p, q):
        p, q = (F.softmax(z / temperature, dim=-1) for z in (p, q))
        return temperature**2 * (p * (p / q).log()).sum()

    if head == "regression":
        return (student.logits[0, 0] - teacher.logits[0, 0]) ** 2
    if head == "span":
        return (
            kl(student.start_logits[0], teacher.start_logits[0]) + kl(student.end_logits[0], teacher.end_logits[0])
        ) / 2
    if head == "multi_label":
        zeros = torch.zeros_like(student.logits[0])
        return kl(*(torch.stack([output.logits[0], zeros], dim=1) for output in (student, teacher)))
    return kl(student.logits[0], teacher.logits[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_predictive_knowledge_is_half_the_mean_squared_mask_gradient(family, head):
    student, teacher = student_and_teacher(family, head)
    calibration, objective = tiny_calibration(5, 3), objective_of(student.model)
    states = states_of(student, teacher, objective, calibration.batches())
    measured = measure(student, 1, *states, objective, KnowledgeSettings()).predictive
    expected = [torch.zeros(s.units, dtype=torch.float64) for s in student.blocks]
    for example in calibration.examples:
        batch = collate([example], 1)
        masks = [torch.ones(s.units, dtype=torch.float64, requires_grad=True) for s in student.blocks]
        with torch.no_grad():
            target = teacher.model(**batch)
        with masked(student, masks):
            output = student.model(**batch)
        divergence = literal_divergence(head, output, target, 2.0, len(example["input_ids"]))
        for total, gradient in zip(expected, torch.autograd.grad(divergence, masks), strict=True):
            total += gradient**2 / 2 / len(calibration.examples)
    for ours, literal in zip(measured, expected[1:], strict=True):
        assert literal.max() > 0
        torch.testing.assert_close(ours, literal, rtol=1e-6, atol=1e-12 * literal.max().item())


@pytest.mark.parametrize("family", FAMILIES)
def test_representational_knowledge_is_the_energy_of_a_unit(family):
    student, teacher = student_and_teacher(family)
    calibration, objective = tiny_calibration(5, 3), objective_of(student.model)
    states = states_of(student, teacher, objective, calibration.batches())
    measured = measure(student, 1, *states, objective, KnowledgeSettings()).representational
    tokens = sum(len(example["input_ids"]) for example in calibration.examples)
    expected = [torch.zeros(s.units, dtype=torch.float64) for s in student.blocks]
    with torch.no_grad():
        for example in calibration.examples:
            batch = collate([example], 1)
            hidden, context = student.embed(batch)
            for block, total in zip(student.blocks, expected, strict=True):
                features = block.features(hidden, context)[0]
                for unit in range(block.units):
                    columns = slice(unit * block.width, (unit + 1) * block.width)
                    output = features[:, columns] @ block.output.weight[:, columns].T
                    total[unit] += output.square().mean(dim=1).sum() / tokens
                hidden = block.run(hidden, context)
    for ours, literal in zip(measured, expected[1:], strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-9, atol=0)


def test_official_knowledge_is_the_authors_arithmetic():
    """One mask per dimension, the gradient of the batch mean, KL(T ‖ S); means over dimensions, tokens and d."""
    student, teacher = student_and_teacher()
    calibration, objective = tiny_calibration(7, 3), objective_of(student.model)
    states = states_of(student, teacher, objective, calibration.batches(by_length=False))
    measured = measure(student, 1, *states, objective, OFFICIAL)
    predictive = [torch.zeros(s.units, dtype=torch.float64) for s in student.blocks]
    representational = [torch.zeros(s.units, dtype=torch.float64) for s in student.blocks]
    for state, target in zip(*states, strict=True):
        masks = [torch.ones(s.output.in_features, dtype=torch.float64, requires_grad=True) for s in student.blocks]
        handles, features = [], []
        for block, mask in zip(student.blocks, masks, strict=True):

            def apply(module, inputs, mask=mask):
                features.append(inputs[0].detach()[state.batch["attention_mask"].bool()])  # noqa: B023
                return (inputs[0] * mask,)

            handles.append(block.output.register_forward_pre_hook(apply))
        log_student = F.log_softmax(student.model(**state.batch).logits / 2, dim=1)
        loss = F.kl_div(log_student, F.softmax(target / 2, dim=1), reduction="batchmean") * 4
        for handle in handles:
            handle.remove()
        for index, gradient in enumerate(torch.autograd.grad(loss, masks)):
            block = student.blocks[index]
            predictive[index] += (gradient**2 / 2).view(-1, block.width).mean(dim=1)
            energy = (features[index] ** 2).sum(dim=0) * (block.output.weight**2).mean(dim=0)
            representational[index] += energy.view(-1, block.width).mean(dim=1)
    for index in range(1, 6):
        torch.testing.assert_close(measured.predictive[index - 1], predictive[index] / 7, rtol=1e-6, atol=0)
        torch.testing.assert_close(
            measured.representational[index - 1], representational[index] / calibration.tokens, rtol=1e-9, atol=0
        )


@pytest.mark.parametrize("head", HEADS)
def test_scores_depend_neither_on_padding_nor_on_batches(head):
    student, teacher = student_and_teacher(head=head)
    calibration, objective = tiny_calibration(6), objective_of(student.model)
    alone = CalibrationSet(calibration.examples, 1, 1).batches(by_length=False)
    together = CalibrationSet(calibration.examples, 6, 1).batches()
    padded = [
        {key: F.pad(value, (0, 5), value=key == "input_ids") for key, value in batch.items()} for batch in together
    ]
    results = [
        measure(student, 1, *states_of(student, teacher, objective, batches), objective, KnowledgeSettings())
        for batches in (alone, together, padded)
    ]
    for other in results[1:]:
        for name in ("predictive", "representational"):
            for ours, theirs in zip(getattr(results[0], name), getattr(other, name), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-14)


def test_keeping_padding_in_a_span_changes_its_scores():
    """What the authors' code does, and the reason why the paper's formula is not computed that way here."""
    student, teacher = student_and_teacher(head="span")
    batches = CalibrationSet(tiny_calibration(6).examples, 6, 1).batches()
    scores = []
    for objective in (Span(), Span(keep_padding=True)):
        states = states_of(student, teacher, objective, batches)
        scores.append(measure(student, 1, *states, objective, KnowledgeSettings()).predictive[0])
    assert ((scores[0] - scores[1]).abs() / scores[0]).max() > 0.01


def test_no_predictive_signal_where_the_student_is_the_teacher():
    model = view_of(frozen_copy(tiny_model()))
    objective = objective_of(model.model)
    states = calibration_states(model, tiny_calibration().batches())
    knowledge = measure(model, 0, states, TeacherLogits(model, states, objective), objective, KnowledgeSettings())
    assert max(k.max() for k in knowledge.predictive) < 1e-20
    assert min(k.min() for k in knowledge.representational) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_low_temperature_leaves_spans_finite_and_padding_out(dtype):
    """Masked logits over γ stay finite; over a large γ they stay masked."""
    logits = torch.randn(2, 2, 9, dtype=dtype, generator=torch.Generator().manual_seed(0))
    output = QuestionAnsweringModelOutput(start_logits=logits[:, 0], end_logits=logits[:, 1])
    mask = (torch.arange(9) < 6).long().expand(2, -1)
    padded, alone = Span().read(output, mask), logits[..., :6]
    for temperature in (1e-3, 0.5, 2.0, 1e6):
        ours, expected = (Span().divergence(z, 2 * z, temperature) for z in (padded, alone))
        assert torch.isfinite(expected).all()
        torch.testing.assert_close(ours, expected)


def test_knowledge_that_is_not_finite_is_an_error():
    student, teacher = student_and_teacher()
    objective = objective_of(student.model)
    states, logits = states_of(student, teacher, objective, tiny_calibration().batches())
    logits = list(logits)
    logits[1][2, 0] = float("nan")
    with pytest.raises(UserError, match="knowledge of the neurons of layer 0 is not finite"):
        measure(student, 1, states, logits, objective, KnowledgeSettings())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none(temperature):
    for settings in (KnowledgeSettings, KPrunePlus):
        with pytest.raises(UserError, match="temperature=.* is out of range: give a number above 0"):
            settings(temperature=temperature)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(predictive="fishr"), "predictive=fishr is unknown: use divergence or fisher"),
        (dict(kl="studnet_teacher"), "kl=studnet_teacher is unknown: use student_teacher or teacher_student"),
        (dict(gradient="mean"), "gradient=mean is unknown: use example or batch"),
        (dict(head="hole"), "head=hole is unknown: use whole or mean_of_dimensions"),
    ],
)
def test_words_that_name_nothing(settings, message):
    with pytest.raises(UserError, match=message):
        KnowledgeSettings(**settings)
