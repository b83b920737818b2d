"""What a budget's settings do to a cell's name and identity."""

import pytest

from experiments.config.budgets import check_budget, requested, target_of
from experiments.config.composing import compose_cell
from experiments.config.methods import build_method
from experiments.store.identity import identity_of, variant_of
from kprune.errors import UserError


def test_a_cell_by_flops_is_what_it_was_before_there_was_a_choice():
    config, defaults = compose_cell(["flops_reduction=0.7"])
    identity = identity_of(config)
    assert identity["flops_reduction"] == 0.7 and not {"budget", "speedup", "grain"} & set(identity)
    assert target_of(config) == "0.7" and requested(config) == 0.7 and variant_of(config, defaults) == {}


def test_a_cell_by_latency():
    config, defaults = compose_cell(["budget=latency", "speedup=3", "grain=16"])
    identity = identity_of(config)
    assert (identity["budget"], identity["speedup"], identity["grain"]) == ("latency", 3, 16)
    assert "flops_reduction" not in identity and requested(config) is None
    assert target_of(config) == "3x" and variant_of(config, defaults) == {"grain": 16}
    assert target_of(config | {"speedup": 2.5}) == "2.5x"


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["budget=time"], "budget=time is unknown: use flops or latency"),
        (["speedup=3"], "add budget=latency"),
        (["budget=latency"], "asks for no speed-up"),
        (["budget=latency", "speedup=0.9"], "asks for no speed-up"),
        (["budget=latency", "speedup=fast"], "asks for no speed-up"),
        (["budget=latency", "speedup=3", "latency=null"], "needs a batch size and length"),
        (["grain=0"], "grain=0"),
        (["grain=1.5"], "grain=1.5"),
        (["flops_reduction=1.5"], "outside"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(overrides, message):
    config, _ = compose_cell(overrides)
    with pytest.raises(UserError, match=message):
        check_budget(config, build_method(config["method"]))
