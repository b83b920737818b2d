"""Wanda-sp against its definition, unit by unit."""

import pytest
from decoders import block_features, prune, tiny_decoder
from tiny import tiny_calibration, tiny_model

from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.models import view_of
from kprune.models.surgery import output_weight


def scores(weight, features, width):
    """Σ_j mean_i |W_ij| ‖x_j‖ over the columns of each unit, number by number."""
    found = []
    for unit in range(weight.shape[1] // width):
        columns = range(unit * width, (unit + 1) * width)
        found.append(
            sum(
                sum(abs(weight[i, j].item()) for i in range(len(weight)))
                / len(weight)
                * sum(x**2 for x in features[:, j].tolist()) ** 0.5
                for j in columns
            )
        )
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_units_kept_are_the_best_by_the_definition(family):
    """Each block is measured on what those below it give after they were pruned, padding left out."""
    model, calibration = tiny_decoder(family), tiny_calibration()
    outcome = prune("wanda_sp", model, ParametersBudget(0.4), calibration)
    kept = list(outcome.plan.kept.values())
    other = 0
    for index, block in enumerate(view_of(model).blocks):
        order = [
            sorted(range(block.units), key=lambda unit: -found[unit])[: len(kept[index])]
            for found in (
                scores(output_weight(block), block_features(model, below, index, calibration.batches()), block.width)
                for below in (kept, [])
            )
        ]
        assert sorted(order[0]) == kept[index]
        other += sorted(order[1]) != kept[index]
    assert other, "the dense model's features would have kept the same units"


def test_an_encoder_is_pruned_by_the_definition():
    model, calibration = tiny_model(), tiny_calibration()
    outcome = prune("wanda_sp", model, FlopsBudget(0.5, 8.0), calibration)
    assert outcome.kept_heads == [2, 2, 2] and outcome.kept_neurons == [24, 24, 24]
    kept = list(outcome.plan.kept.values())
    block = view_of(model).blocks[3]
    found = scores(output_weight(block), block_features(model, kept, 3, calibration.batches()), 1)
    assert sorted(sorted(range(48), key=lambda unit: -found[unit])[:24]) == kept[3]
