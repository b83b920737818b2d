"""The Fisher of one pass over the teacher against its definition, and what it must not depend on."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from families import tiny_of
from tiny import FAMILIES, HEADS, tiny_calibration, tiny_model

from kprune.data import CalibrationSet, collate
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.methods.kprune_plus.fisher import measure_fisher, metric_root
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.objectives import Classification, Regression, Span, objective_of
from kprune.objectives.base import random_signs, softmax_roots
from kprune.solve.least_squares import LeastSquares
from kprune.streams import calibration_states

GAMMA = 2.0


def measured(model, calibration):
    """Return the Fisher of every block, and its features' sums, which K-prune+ makes on a walk of their own."""
    view = view_of(frozen_copy(model))
    states = calibration_states(view, calibration.batches())
    fishers, sums = measure_fisher(view, states, objective_of(model), GAMMA), []
    inputs = [state.teacher for state in states]
    for block, fisher in zip(view.blocks, fishers, strict=True):
        sums.append(LeastSquares.empty(block.columns, 0, view.device))
        for index, (state, energies) in enumerate(zip(states, fisher.energies, strict=True)):
            inputs[index] = KPrunePlus.add_features(sums[-1], block, state, inputs[index], energies)
    return fishers, sums


def quadratic(objective, logits, change):
    """½ Σ_k root_k(change)², which is what the divergence must be to second order."""
    keys = torch.zeros(len(logits), dtype=torch.long)
    variable = logits.clone().requires_grad_()
    roots = objective.fisher_roots(variable, GAMMA, keys)
    gradients = [torch.autograd.grad(root.sum(), variable, retain_graph=True)[0] for root in roots]
    return sum((g * change).reshape(len(g), -1).sum(dim=1) ** 2 for g in gradients) / 2


@pytest.mark.parametrize("classes", [2, 3])
def test_roots_of_a_classifier_are_the_second_order_of_the_divergence(classes):
    generator = torch.Generator().manual_seed(0)
    logits, change = (torch.randn(5, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    divergence = Classification().divergence(logits + 1e-4 * change, logits, GAMMA)
    torch.testing.assert_close(quadratic(Classification(), logits, 1e-4 * change), divergence, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3)])
def test_roots_of_a_regression_are_its_divergence(shape):
    """One number per example, of several outputs the sum."""
    values, change = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    divergence = Regression().divergence(values + change, values, GAMMA)
    torch.testing.assert_close(divergence, change.square().reshape(5, -1).sum(dim=1))
    torch.testing.assert_close(quadratic(Regression(), values, change), divergence)


@pytest.mark.parametrize("classes", [5, 40])
def test_random_signs_give_the_softmax_covariance_in_expectation(classes):
    logits = torch.randn(1, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = F.softmax(logits / GAMMA, dim=-1)[0]
    signs = random_signs(torch.arange(40_000), classes, 0).double()
    root = p.sqrt()
    vectors = root * signs - p * (root * signs).sum(dim=1, keepdim=True)
    one = softmax_roots(logits.expand(3, -1), GAMMA, signs[:3, :, None])[:, 0]
    torch.testing.assert_close(one, vectors[:3] @ logits[0])
    covariance = vectors.T @ vectors / len(vectors)
    assert (covariance - (torch.diag(p) - torch.outer(p, p))).abs().max() < 0.01 * p.max()


def test_the_root_of_two_classes_is_p0_p1_times_the_change_of_the_margin():
    logits, change = (torch.randn(6, 2, dtype=torch.float64) for _ in range(2))
    p = F.softmax(logits / GAMMA, dim=1)
    expected = p.prod(dim=1) * (change[:, 1] - change[:, 0]) ** 2 / 2
    torch.testing.assert_close(quadratic(Classification(), logits, change), expected)


@pytest.mark.parametrize(
    "make",
    [partial(tiny_model, family) for family in FAMILIES] + [partial(tiny_of, "gpt_neox")],
)
def test_covariance_and_energies_by_their_definition(make):
    """One unpadded example at a time, by adding a free variable to each projection's output."""
    model, calibration = make(), tiny_calibration(5, 3)
    fishers, squares = measured(model, calibration)
    view = view_of(frozen_copy(model))
    covariances = [torch.zeros(32, 32, dtype=torch.float64) for _ in view.blocks]
    grams = [torch.zeros_like(s.gram) for s in squares]
    for example in calibration.examples:
        batch = collate([example], 1)
        length = len(example["input_ids"])
        free = [torch.zeros(1, length, 32, dtype=torch.float64, requires_grad=True) for _ in view.blocks]
        features, hooks = [], []
        for block, variable in zip(view.blocks, free, strict=True):
            hooks.append(
                block.output.register_forward_pre_hook(lambda _, f, seen=features: seen.append(f[0].detach()[0]))
            )
            hooks.append(block.output.register_forward_hook(lambda _, f, out, v=variable: out + v))
        log_p = F.log_softmax(view.model(**batch).logits / GAMMA, dim=1)[0]
        for hook in hooks:
            hook.remove()
        energies = [torch.zeros(length, dtype=torch.float64) for _ in free]
        for label in range(3):
            # γ² Σ_y p(y) (∂ log p(y)/∂y_t)(…)ᵀ, the Fisher of γ² KL
            gradients = torch.autograd.grad(log_p[label], free, retain_graph=True)
            for index, g in enumerate(gradients):
                weight = GAMMA**2 * log_p[label].exp().item()
                covariances[index] += weight * g[0].T @ g[0] / len(calibration.examples)
                energies[index] += weight * g[0].square().sum(dim=1)
        for gram, f, a in zip(grams, features, energies, strict=True):
            gram += f.T @ (f * a[:, None])
    for fisher, sums, covariance, gram in zip(fishers, squares, covariances, grams, strict=True):
        assert covariance.diagonal().sum() > 0
        torch.testing.assert_close(fisher.covariance, covariance, rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(sums.gram, gram, rtol=1e-7, atol=1e-10)
        assert fisher.energy == pytest.approx(covariance.diagonal().sum().item() * 5, rel=1e-7)


@pytest.mark.parametrize("head", HEADS)
def test_neither_batches_nor_padding_matter(head):
    model, examples = tiny_model(head=head), tiny_calibration(6).examples
    one, other = measured(model, CalibrationSet(examples, 1, 1)), measured(model, CalibrationSet(examples[::-1], 6, 1))
    for (a, a_sums), (b, b_sums) in zip(zip(*one, strict=True), zip(*other, strict=True), strict=True):
        torch.testing.assert_close(a.covariance, b.covariance, rtol=1e-8, atol=1e-14)
        torch.testing.assert_close(a_sums.gram, b_sums.gram, rtol=1e-8, atol=1e-14)


def test_a_classifier_feels_the_last_block_at_its_first_token_alone():
    fisher = measured(tiny_model(), tiny_calibration(6))[0][-1]
    for energies in fisher.energies:
        assert energies[:, 0].min() > 0 and energies[:, 1:].max() == 0


def test_span_roots_leave_padding_out():
    logits = torch.randn(2, 2, 7, dtype=torch.float64)
    padded = F.pad(logits, (0, 3), value=torch.finfo(torch.float64).min)
    keys = torch.tensor([3, 4])
    torch.testing.assert_close(*(Span().fisher_roots(z, GAMMA, keys)[0] for z in (logits, padded)))


def test_metric_of_a_block_that_nothing_feels_is_the_identity():
    assert torch.equal(metric_root(torch.zeros(3, 3), 1.0), torch.eye(3))
    covariance = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    root = metric_root(covariance, 0.5)
    torch.testing.assert_close(root.T @ root, covariance + torch.eye(3))
