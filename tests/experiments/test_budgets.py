"""What is asked for: how it is written, what it does to a cell's name and identity, and what is refused before a load."""

import pytest

from experiments.cell.identity import folder_of, identity_of
from experiments.config.cell import configured
from kprune.errors import UserError


def test_a_cell_by_flops_is_what_it_was_before_there_was_a_choice():
    config = configured(["flops_reduction=0.7"])
    identity = identity_of(config)
    assert identity["flops_reduction"] == 0.7
    assert not {"budget", "speedup", "params_reduction", "grain", "method_version", "precision"} & set(identity)
    assert folder_of(config).parts[-3:-1] == ("kprune", "0.7") and config.variant.plain() == {}


def test_a_cell_by_latency():
    config = configured(["budget=latency", "speedup=3", "grain=16"])
    identity = identity_of(config)
    assert (identity["budget"], identity["speedup"], identity["grain"]) == ("latency", 3, 16)
    assert "flops_reduction" not in identity and config.target.requested("flops") is None
    assert folder_of(config).parts[-3:-1] == ("kprune+grain=16", "3x") and config.variant.plain() == {"grain": 16}


def test_a_cell_by_parameters():
    config = configured(["budget=parameters", "params_reduction=0.2"])
    identity = identity_of(config)
    assert (identity["budget"], identity["params_reduction"]) == ("parameters", 0.2)
    assert not {"flops_reduction", "speedup"} & set(identity) and folder_of(config).parts[-2] == "p0.2"


def test_a_cell_in_reduced_precision():
    config = configured(["precision=reduced"])
    assert identity_of(config)["precision"] == "reduced" and config.variant.plain() == {"precision": "reduced"}
    assert folder_of(config).parts[-3] == "kprune+precision=reduced"


@pytest.mark.parametrize("typed, asked", [("0.5", 0.5), ("2:4", "2:4")])
def test_a_cell_by_sparsity(typed, asked):
    config = configured(["method=wanda", f"sparsity={typed}"])
    identity = identity_of(config)
    assert identity["sparsity"] == asked and not {"flops_reduction", "budget"} & set(identity)
    assert folder_of(config).parts[-3:-1] == ("wanda", "s0.5" if typed == "0.5" else "2:4")
    assert config.format == "dense" and configured([]).format == "pruned"


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["budget=time"], "budget=time is unknown: use flops, parameters or latency"),
        (["speedup=3"], "speedup=3 goes with another budget: add budget=latency"),
        (["params_reduction=0.2"], "params_reduction=0.2 goes with another budget: add budget=parameters"),
        (["budget=latency", "speedup=3", "flops_reduction=0.7"], "flops_reduction=0.7 goes with .* leave it at 0.8"),
        (["budget=parameters", "params_reduction=0.2", "speedup=3"], "speedup=3 goes with another budget"),
        (["budget=latency"], "asks for no speed-up"),
        (["budget=latency", "speedup=0.9"], "asks for no speed-up"),
        (["budget=latency", "speedup=fast"], "speedup=fast is not a finite number"),
        (["budget=latency", "speedup=3", "latency=null"], "needs a batch size and length"),
        (["budget=latency", "speedup=3", "method=cofi"], "method cofi prunes by flops alone: leave budget=flops"),
        (["budget=parameters"], "params_reduction=null is not a number"),
        (["grain=16", "method=cofi"], "method cofi does not round widths"),
        (["uniform=true", "method=kwon"], "method kwon does not keep the layers alike"),
        (["format=uniform", "method=kcm"], "method kcm does not keep the layers alike"),
        (
            ["method=wanda"],
            "wanda sets single weights to zero, which saves no FLOPs: give sparsity=0.5 or sparsity=2:4 alone",
        ),
        (["method=sparsegpt", "flops_reduction=0.5"], "sparsegpt sets single .* no FLOPs: give sparsity=0.5"),
        (["method=wanda", "budget=parameters", "params_reduction=0.5"], "wanda sets single .* no parameters"),
        (["sparsity=0.5"], "kprune removes whole heads and neurons, .*: leave sparsity out, or use method=wanda"),
        (["method=wanda", "sparsity=0.5", "flops_reduction=0.7"], "flops_reduction=0.7 asks for .*: leave it at 0.8"),
        (["method=wanda", "sparsity=0.5", "budget=latency"], "budget=latency asks for .*: leave it at flops"),
        (["method=wanda", "sparsity=0.5", "of=model"], "of=model asks for .*: leave it at layers"),
        (["method=wanda", "sparsity=1.5"], r"sparsity=1.5 is outside \(0, 1\)"),
        (["method=wanda", "sparsity=half"], "sparsity=half is not a number: .*such as 0.5, or a pattern such as 2:4"),
        (["method=wanda", "sparsity=4:4"], "4:4 removes nothing or everything"),
        (["method=wanda", "sparsity=[1]"], "sparsity=.* is not a finite number or text, or null"),
        (["method=wanda", "sparsity=0.5", "format=pruned"], "format=pruned saves narrower layers"),
        (["method=wanda", "sparsity=0.5", "format=uniform"], "wanda does not keep the layers alike"),
        (["method=wanda", "sparsity=0.5", "grain=16"], "wanda does not round widths"),
        (["grain=0"], "grain=0"),
        (["precision=half"], "precision=half"),
        (["precision=reduced", "method=random"], "method random does not run the model"),
        (["precision=reduced", "method=none", "flops_reduction=0"], "method none does not run the model"),
        (["precision=reduced", "method=cofi"], "method cofi trains"),
        (["grain=1.5"], "grain=1.5"),
        (["flops_reduction=1.5"], "outside"),
        (["format=dense", "save_model=false"], "format=dense is about a saved model"),
        (["onnx=true", "save_model=false"], "onnx=true is about a saved model"),
        (["onnx=int8", "save_model=false"], "onnx=int8 is about a saved model"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        configured(overrides)
    assert "\n" not in str(error.value)
