import pytest
import torch

from kprune.errors import UserError
from kprune.solve.least_squares import LeastSquares, ridged_cholesky


def accumulated(features, targets, parts=3):
    squares = LeastSquares.empty(features.shape[1], targets.shape[1], features.device)
    for f, t in zip(features.chunk(parts), targets.chunk(parts), strict=True):
        squares.add(f, t)
    return squares


def problem(tokens=60, width=8, hidden=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(tokens, n, generator=generator, dtype=dtype) for n in (width, hidden))


def test_solution_is_that_of_all_tokens_at_once():
    features, targets = problem()
    weight, ridge = accumulated(features, targets).solve(0.0)
    expected = torch.linalg.lstsq(features, targets).solution.T
    torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-12)
    assert ridge == 0


def test_wide_problems_are_summed_in_blocks_and_solved_from_the_lower_triangle_alone():
    features, targets = problem(tokens=900, width=600)
    weights = torch.rand(900, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    squares = LeastSquares.empty(600, 5, "cpu")
    for rows in (slice(0, 400), slice(400, None)):
        squares.add(features[rows], targets[rows], weights[rows])
    torch.testing.assert_close(squares.gram, features.T @ (features * weights[:, None]), rtol=1e-9, atol=1e-9)
    root = weights.sqrt()[:, None]
    expected = torch.linalg.lstsq(root * features, root * targets).solution.T
    squares.lower += torch.full((600, 600), 7.0).triu(1)
    torch.testing.assert_close(squares.solve(0.0)[0], expected, rtol=1e-7, atol=1e-9)


def test_ridge_is_relative_to_the_mean_diagonal():
    features, targets = problem()
    weight, _ = accumulated(features, targets).solve(0.01)
    gram = features.T @ features
    shifted = gram + 0.01 * gram.diagonal().mean() * torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(weight, torch.linalg.solve(shifted, features.T @ targets).T, rtol=1e-9, atol=1e-12)


def test_a_dead_feature_raises_the_ridge_and_says_so():
    features, targets = problem()
    features[:, 3] = 0
    weight, ridge = accumulated(features, targets).solve(0.0)
    assert 0 < ridge <= 1e-2
    assert torch.isfinite(weight).all() and weight[:, 3].abs().max() == 0


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 1.0])
def test_features_that_are_all_zero_get_zero_weights(ridge):
    features, targets = problem()
    for squares in (accumulated(0 * features, targets), accumulated(0 * features, targets).centred()):
        assert squares.dead and squares.solve(ridge)[0].abs().max() == 0
    assert not accumulated(features, targets).dead


def test_a_problem_without_weight_is_centred():
    squares = LeastSquares.empty(8, 5, "cpu")
    squares.add(*problem(), torch.zeros(60))
    assert squares.centred().dead and torch.equal(squares.centred().gram, torch.zeros(8, 8).double())


def test_a_matrix_that_is_far_from_positive_asks_for_a_ridge():
    gram = torch.diag(torch.tensor([10.0, -1.0], dtype=torch.float64))
    with pytest.raises(UserError, match="no solution with a ridge of 0.01: raise the method's ridge"):
        ridged_cholesky(gram, 1e-6)
    assert ridged_cholesky(gram, 1.0)[1] == 1.0
    # Of few texts that are nearly alike, hardly more than rounding is left of a centred matrix: a ridge of 1e-2 may not be enough.
    nearly = torch.diag(torch.tensor([10.0, -0.1], dtype=torch.float64))
    assert ridged_cholesky(nearly, 1e-2)[1] == pytest.approx(0.1)


def test_nan_features_are_an_error():
    features, targets = problem()
    features[0, 0] = float("nan")
    with pytest.raises(UserError, match="NaN or infinity"):
        accumulated(features, targets).solve(1e-6)


def test_float32_solve_agrees_on_an_easy_problem():
    features, targets = problem()
    squares = accumulated(features, targets)
    torch.testing.assert_close(squares.solve_float32().double(), squares.solve(0.0)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("worst", [float("inf"), 1e30])
def test_a_float32_solution_that_is_not_finite_is_an_error(worst):
    """1e30 is finite, its square is not in float32."""
    features, targets = problem()
    features[3, 2] = worst
    with pytest.raises(UserError, match="no finite solution here: use solve='float64'"):
        accumulated(features, targets).solve_float32()
