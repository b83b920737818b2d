"""What is in memory on the way up does not grow with the number of blocks."""

import gc
import weakref

import pytest
import torch
from tiny import tiny_calibration, tiny_model

from kprune.budgets import FlopsBudget
from kprune.clock import Clock
from kprune.contract import Job, PruningData
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.kprune_plus import algorithm as plus
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.objectives import objective_of
from kprune.solve.least_squares import LeastSquares
from kprune.streams import calibration_states


@pytest.fixture
def peak(monkeypatch):
    """peak(run): how many least squares were made; at most, how many of them were there when another was made, and how
    many tensors with a row per token, [B, T, ...]: hidden states and features."""
    made, most = [], {}
    init = LeastSquares.__init__

    def counted(squares, *args, **kwargs):
        init(squares, *args, **kwargs)
        made.append(weakref.ref(squares))
        states = sum(type(found) is torch.Tensor and found.dim() == 3 for found in gc.get_objects())
        for name, count in (("squares", sum(one() is not None for one in made)), ("states", states)):
            most[name] = max(most[name], count)

    def of(run):
        made.clear(), most.update(squares=0, states=0)
        gc.collect(), gc.freeze()  # what is there before is not counted
        run()
        return len(made), dict(most)

    monkeypatch.setattr(LeastSquares, "__init__", counted)
    yield of
    gc.unfreeze()


def first_pass(layers):
    view = view_of(frozen_copy(tiny_model(layers=layers)))
    states = calibration_states(view, tiny_calibration(24).batches())
    KPrunePlus().resolved(view).first_pass(view, states, objective_of(view.model), Clock())


def prune(method, layers):
    model, data = tiny_model(layers=layers), PruningData(tiny_calibration(24))
    method.prune(Job(model, objective_of(model), data, FlopsBudget(0.5, 8.0)))


def test_the_first_pass_holds_one_gram_matrix_at_a_time(peak):
    """The one at hand, itself centred, and for a moment the one before."""
    (few, small), (many, large) = (peak(lambda n=n: first_pass(n)) for n in (3, 6))
    assert many == 2 * few >= 12
    assert small == large and large["squares"] <= 3


@pytest.mark.parametrize("method", [KPrune(), KPrunePlus(refit_epochs=1)], ids=lambda method: method.name)
def test_the_walk_holds_one_problem_at_a_time(method, peak, monkeypatch):
    monkeypatch.setattr(plus, "TOKENS", 64)
    (few, small), (many, large) = (peak(lambda n=n: prune(method, n)) for n in (3, 6))
    assert many > few > 3
    assert large["squares"] <= 4 and large["states"] <= small["states"]
