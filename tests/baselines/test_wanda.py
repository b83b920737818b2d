"""Wanda's masks, by their definition."""

import pytest
import torch

from baselines.wanda import Norms
from kprune.target import Target


def drawn(rows=6, columns=12, tokens=30):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator)
    # Of sizes that reorder the weights.
    inputs = torch.randn(tokens, columns, generator=generator) * torch.rand(columns, generator=generator)
    return weight, inputs


def masked(weight, inputs, sparsity):
    norms = Norms(torch.zeros(weight.shape[1], dtype=torch.float64), sparsity)
    for part in inputs.split(7):  # of several batches
        norms.add(part)
    return norms.masked(weight)


def by_definition(weight, inputs, row, among, count):
    """The columns of a row, among some, whose |w| times the norm of their input is least."""
    norm = {column: sum(float(x[column]) ** 2 for x in inputs) ** 0.5 for column in among}
    return sorted(among, key=lambda column: abs(float(weight[row, column])) * norm[column])[:count]


@pytest.mark.parametrize("share, count", [(0.5, 6), (0.3, 4), (0.04, 0), (0.96, 12)])
def test_a_share_goes_in_every_row(share, count):
    weight, inputs = drawn()
    found = masked(weight, inputs, Target("sparsity", share))
    for row in range(len(weight)):
        gone = by_definition(weight, inputs, row, range(12), count)
        assert set((found[row] == 0).nonzero()[:, 0].tolist()) == set(gone)
    assert torch.equal(found[found != 0], weight.double()[found != 0])


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:6", "1:2"])
def test_a_pattern_goes_in_every_group_of_every_row(text):
    weight, inputs = drawn()
    target = Target.parse(text)
    found, keep = masked(weight, inputs, target), int(target.amount)
    for row in range(len(weight)):
        for start in range(0, 12, target.group):
            among = range(start, start + target.group)
            gone = by_definition(weight, inputs, row, among, target.group - keep)
            assert [column for column in among if found[row, column] == 0] == sorted(gone)


def test_weights_alone_would_choose_otherwise():
    weight, inputs = drawn()
    by_size = masked(weight, torch.ones_like(inputs), Target("sparsity", 0.5))
    assert not torch.equal(by_size == 0, masked(weight, inputs, Target("sparsity", 0.5)) == 0)


def test_weights_of_inputs_that_are_always_zero_go_first():
    weight, inputs = drawn()
    inputs[:, [2, 7]] = 0
    weight[:, [2, 7]] = 100
    found = masked(weight, inputs, Target("sparsity", 0.25))
    assert not found[:, [2, 7]].any() and ((found == 0).sum(dim=1) == 3).all()
    # More of them than go: the share stays.
    assert (masked(weight, inputs * 0, Target("sparsity", 0.25)) == 0).sum(dim=1).tolist() == [3] * 6
