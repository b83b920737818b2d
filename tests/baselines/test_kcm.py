import pytest
import torch
from tiny import tiny_calibration, tiny_model

from baselines.kcm import KCM, convex_update, data_driven_ranking, gaussian_kernel, representative_ranking
from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.flops import flops_reduction
from kprune.models.surgery import keep_units
from kprune.objectives import objective_of


def rows_of(n=20, d=5, seed=0, dtype=torch.float64):
    return 0.6 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reconstruction_error(kernel, c):
    """‖φ(X) − φ(X) C‖² by the kernel trick."""
    return torch.trace(kernel) - 2 * torch.trace(kernel @ c) + torch.trace(c.T @ kernel @ c)


def literal_ranking(rows, sigma, alpha):
    n = len(rows)
    k = torch.tensor(
        [[torch.exp(-((rows[i] - rows[j]) ** 2).sum() / sigma**2) for j in range(n)] for i in range(n)]
    ).to(rows.dtype)
    c = torch.full((n, n), 1 / n, dtype=rows.dtype)
    for count in range(1, 10000):
        kc = k @ c
        updated = torch.tensor([[c[i, j] * (k[i, j] / kc[i, j]) ** 0.5 for j in range(n)] for i in range(n)]).to(c)
        change = ((updated - c) ** 2).sum().sqrt() / (c**2).sum().sqrt()
        c = updated
        if change <= alpha:
            return c.diagonal(), count
    raise AssertionError("did not stop")


@pytest.mark.parametrize("sigma, alpha", [(1.0, 0.01), (2.0, 0.1)])
def test_ranking_is_the_literal_iteration(sigma, alpha):
    rows = rows_of()
    scores, count = representative_ranking(rows, sigma, alpha)
    expected, literal_count = literal_ranking(rows, sigma, alpha)
    assert count == literal_count > 1
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("seed", range(3))
def test_every_update_lowers_the_error_and_c_stays_non_negative(dtype, tolerance, seed):
    kernel = gaussian_kernel(rows_of(40, 6, seed, dtype), 1.0)
    c = torch.full_like(kernel, 1 / 40)
    errors = [reconstruction_error(kernel, c)]
    for _ in range(60):
        c = convex_update(kernel, c)
        assert c.min() >= 0 and torch.isfinite(c).all()
        errors.append(reconstruction_error(kernel, c))
    falls = torch.stack(errors).diff()
    assert (falls <= tolerance * errors[0]).all() and errors[-1] < 0.5 * errors[0]


def test_distinct_rows_converge_to_the_identity_which_ranks_nothing():
    rows = rows_of(8)
    kernel = gaussian_kernel(rows, 1.0)
    c = torch.full_like(kernel, 1 / 8)
    for _ in range(20000):
        c = convex_update(kernel, c)
    torch.testing.assert_close(c, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-3)
    early, _ = representative_ranking(rows, 1.0, 0.01)
    assert early.max() - early.min() > 0.01, "the early-stopped iterate does rank"


@pytest.mark.parametrize("distance", [3.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_planted_extreme_row_ranks_first(distance, dtype):
    """The further one's kernel with all others underflows."""
    rows = 0.2 * rows_of(30, 6, dtype=dtype)
    rows[17] = distance
    scores, _ = representative_ranking(rows, 1.0, 0.01)
    assert scores.argmax() == 17 and torch.isfinite(scores).all()


def test_equal_rows_share_their_score():
    rows = rows_of()
    rows[4] = rows[9]
    scores, _ = representative_ranking(rows, 1.0, 0.01)
    assert scores[4] == pytest.approx(scores[9].item(), rel=1e-9) and scores[4] < scores.median()


@torch.no_grad()
def test_d2_is_its_definition():
    view, calibration = view_of(frozen_copy(tiny_model("distilbert"))), tiny_calibration(7, 3)
    expected = [torch.zeros(48, dtype=torch.float64) for _ in range(3)]
    for example in calibration.examples:
        hidden, context = view.embed({"input_ids": torch.tensor([example["input_ids"]])})
        for block in view.blocks:
            if block.kind == "neurons":
                ffn = block.module.ffn
                for token in range(hidden.shape[1]):
                    expected[block.layer] += ffn.activation(ffn.lin1(hidden[0, token])) ** 2
            hidden = block.run(hidden, context)
    for ours, energy in zip(data_driven_ranking(view, calibration), expected, strict=True):
        torch.testing.assert_close(ours, energy.sqrt() / (energy.sqrt().sum() / 48), rtol=1e-9, atol=0)


def test_activations_that_are_not_finite():
    view = view_of(frozen_copy(tiny_model()))
    view.blocks[3].inputs[0].bias[0] = float("inf")
    with pytest.raises(UserError, match="NaN or infinity"):
        data_driven_ranking(view, tiny_calibration())


def prune(model, reduction, data=None):
    return KCM().prune(
        Job(model, objective_of(model), data or PruningData(tiny_calibration(24)), FlopsBudget(reduction, 8.0))
    )


def test_the_kept_neurons_are_the_best_of_all_layers_and_heads_stay():
    model, calibration = tiny_model(), tiny_calibration(24)
    outcome = prune(model, 0.3, PruningData(calibration))
    view = view_of(frozen_copy(model))
    d2 = data_driven_ranking(view, calibration)
    r2 = [representative_ranking(s.output.weight.T, 1.0, 0.01) for s in view.of_kind("neurons")]
    scores = torch.cat([r * d for (r, _), d in zip(r2, d2, strict=True)])
    kept = {48 * layer + unit for layer in range(3) for unit in outcome.plan.kept[f"{layer}.ffn"]}
    assert kept == set(scores.argsort(descending=True)[: len(kept)].tolist())
    assert outcome.kept_heads == [4, 4, 4]
    assert outcome.details["r2"] == {"sigma": 1.0, "alpha": 0.01, "iterations": [count for _, count in r2]}


def test_reach_is_the_share_of_the_ffns():
    model = tiny_model()
    reach = KCM().reach(model, 8.0)
    outcome = prune(model, reach)
    assert outcome.kept_neurons == [0, 0, 0] and outcome.kept_heads == [4, 4, 4]
    assert flops_reduction(view_of(model), view_of(outcome.model), 8.0) == pytest.approx(reach)


def test_beyond_its_reach():
    model = tiny_model()
    with pytest.raises(UserError, match="heads alone"):
        prune(model, KCM().reach(model, 8.0) + 0.001)


def test_an_emptied_ffn_is_passed_over():
    model = tiny_model()
    keep_units(view_of(model).blocks[1], torch.tensor([], dtype=torch.long))
    outcome = prune(model, 0.2)
    assert outcome.kept_neurons[0] == 0 and outcome.details["r2"]["iterations"][0] == 0
