"""SparseGPT's sweep against the optimal brain surgeon by explicit inverses, on small matrices."""

import pytest
import torch

from baselines.sparsegpt import Gram, inverse_root, swept
from kprune.errors import UserError
from kprune.target import Target

ROWS, COLUMNS = 5, 11


def drawn(columns=COLUMNS, tokens=40):
    """Weights, and inputs that depend on one another."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, columns, generator=generator, dtype=torch.float64)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return weight, torch.randn(tokens, columns, generator=generator, dtype=torch.float64) @ mix


def damped(inputs, damping=0.01):
    gram = inputs.T @ inputs
    return gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)


def masked(weight, inputs, sparsity, damping=0.01, columns=128):
    gram = Gram(torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64), sparsity, damping, columns)
    for part in inputs.split(7):
        gram.add(part)
    return gram.masked(weight)


def surgeon(weight, hessian, choose):
    """Go from left to right; weights that `choose(column, weight, inverses)` names go, by the OBS formula on what is left.

    `inverses` has, by column j, the inverse of the Hessian of the columns from j on.
    """
    weight = weight.clone()
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(len(hessian))]
    gone = torch.zeros_like(weight, dtype=torch.bool)
    for j, inverse in enumerate(inverses):
        for row, column in choose(j, weight, inverses):
            gone[row, column] = True
        for row in range(len(weight)):
            if gone[row, j]:
                weight[row, j:] -= weight[row, j] / inverse[0, 0] * inverse[:, 0]
                weight[row, j] = 0
    return weight


def cost(weight, inverses, row, column):
    return float(weight[row, column] ** 2 / inverses[column][0, 0])


def share_of_blocks(share, together):
    """As soon as the sweep gets to a block, its cheapest weights, all rows together."""

    def choose(j, weight, inverses):
        if j % together:
            return []
        block = range(j, min(j + together, weight.shape[1]))
        places = [(row, column) for row in range(len(weight)) for column in block]
        places.sort(key=lambda place: cost(weight, inverses, *place))
        return places[: round(share * len(places))]

    return choose


def all_but(keep, group):
    """As soon as the sweep gets to a group, its cheapest weights, each row by itself."""

    def choose(j, weight, inverses):
        if j % group:
            return []
        places = []
        for row in range(len(weight)):
            columns = sorted(range(j, j + group), key=lambda column: cost(weight, inverses, row, column))
            places += [(row, column) for column in columns[: group - keep]]
        return places

    return choose


def test_the_root_is_of_the_inverse_of_what_is_left():
    _, inputs = drawn()
    hessian = damped(inputs, 0.03)
    root = inverse_root((inputs.T @ inputs).tril(), 0.03)
    assert torch.equal(root, root.triu())
    torch.testing.assert_close(root.T @ root, torch.linalg.inv(hessian))
    for j in range(COLUMNS):
        torch.testing.assert_close(root[j, j] * root[j, j:], torch.linalg.inv(hessian[j:, j:])[0])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("together", [1, 4, 11, 128])
def test_a_share_is_the_surgeons(share, together):
    weight, inputs = drawn()
    found = masked(weight, inputs, Target("sparsity", share), columns=together)
    expected = surgeon(weight, damped(inputs), share_of_blocks(share, together))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for start in range(0, COLUMNS, together):
        block = found[:, start : start + together]
        assert (block == 0).sum() == round(share * block.numel())


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:6", "1:2"])
@pytest.mark.parametrize("together", [2, 5, 128])
def test_a_pattern_is_the_surgeons(text, together):
    """However many columns are swept together, groups stay whole."""
    weight, inputs = drawn(columns=12)
    target = Target.parse(text)
    keep, group = int(target.amount), target.group
    found = masked(weight, inputs, target, columns=together)
    torch.testing.assert_close(found, surgeon(weight, damped(inputs), all_but(keep, group)), rtol=1e-9, atol=1e-9)
    assert ((found == 0).unflatten(1, (-1, group)).sum(dim=2) == group - keep).all()


def test_what_stays_is_the_least_squares_of_a_first_column_that_goes():
    """All others are free to make up for it: a solve in closed form."""
    weight, inputs = drawn()
    weight[:, 1:] += 1e3
    root = inverse_root((inputs.T @ inputs).tril(), 0.01)
    found = swept(weight, root, torch.ones(COLUMNS, dtype=torch.bool), Target("sparsity", 1 / COLUMNS), 128)
    hessian = damped(inputs)
    moved = torch.linalg.solve(hessian[1:, 1:], hessian[1:, :1] @ weight[:, :1].T).T
    assert (found[:, 0] == 0).all()
    torch.testing.assert_close(found[:, 1:], weight[:, 1:] + moved, rtol=1e-9, atol=1e-9)


def test_a_share_of_no_weight_leaves_them_as_they_are():
    weight, inputs = drawn()
    assert torch.equal(masked(weight, inputs, Target("sparsity", 0.001)), weight)


@pytest.mark.parametrize("text", ["s0.5", "2:4"])
def test_the_output_is_closer_than_by_the_same_mask_alone(text):
    weight, inputs = drawn(columns=12)
    found = masked(weight, inputs, Target.parse(text))
    alone = weight.masked_fill(found == 0, 0)
    lost, of_mask = ((inputs @ (weight - other).T).square().sum() for other in (found, alone))
    assert lost < 0.7 * of_mask and not torch.equal(found, alone)


def test_weights_of_inputs_that_are_always_zero_go_first_and_move_nothing():
    weight, inputs = drawn()
    inputs[:, [2, 7]] = 0
    weight[:, [2, 7]] = 100
    found = masked(weight, inputs, Target("sparsity", 2 / COLUMNS))
    assert not found[:, [2, 7]].any() and (found == 0).sum() == 2 * ROWS
    others = [column for column in range(COLUMNS) if column not in (2, 7)]
    assert torch.equal(found[:, others], weight[:, others])
    # No input at all, and one token.
    for few in (inputs * 0, inputs[:1]):
        found = masked(weight, few, Target("sparsity", 0.5))
        assert torch.isfinite(found).all() and (found == 0).sum() == round(0.5 * weight.numel())


def test_too_little_damping_is_one_line():
    weight, inputs = drawn(tokens=3)
    with pytest.raises(UserError, match=r"no solution with damping=1e-30: give .*e-") as refused:
        masked(weight, inputs, Target("sparsity", 0.5), damping=1e-30)
    assert "\n" not in str(refused.value)
