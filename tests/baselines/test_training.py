import pytest
from tiny import tiny_calibration

from baselines.training import batch_order, rate


def test_the_rate_rises_then_falls_to_nothing():
    rates = [rate(step, 100, 0.06) for step in range(100)]
    assert rates.index(max(rates)) in (5, 6) and max(rates) == 1.0
    assert rates[0] == pytest.approx(1 / 6) and rates[-1] == pytest.approx(1 / 94)
    assert all(a >= b for a, b in zip(rates[6:], rates[7:], strict=False))


def test_an_epoch_sees_every_example_once_in_batches_of_like_length():
    examples = tiny_calibration(examples=50, longest=30).examples
    batches = batch_order(examples, 8, seed=0, epoch=0)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    assert batches == batch_order(examples, 8, seed=0, epoch=0) != batch_order(examples, 8, seed=0, epoch=1)
    spans = [max(lengths) - min(lengths) for lengths in ([len(examples[i]["input_ids"]) for i in b] for b in batches)]
    assert sum(spans) <= 30
