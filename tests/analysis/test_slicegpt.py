"""How many parameters SliceGPT leaves."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from analysis.numbers import number_asked
from analysis.slicegpt import SHAPES, dense_parameters, layer_parameters, skip_parameters, sliced_parameters

CONFIGS = {
    "smollm2": (
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
    ),
    "opt_125m": (OPTForCausalLM, OPTConfig()),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_dense_model_has_as_many_parameters_as_transformers_makes(name):
    kind, config = CONFIGS[name]
    with torch.device("meta"):
        model = kind(config)
    assert dense_parameters(SHAPES[name]) == sum(p.numel() for p in model.parameters())


def test_a_sliced_opt_has_as_many_as_the_authors_test_says():
    """147.25 million at 20 %, as tests of microsoft/TransformerCompression have it."""
    assert sliced_parameters(SHAPES["opt_125m"], 0.2) == pytest.approx(147.25e6, abs=5e3)


def test_what_is_not_sliced_gains_the_skips_and_a_head():
    shape = SHAPES["smollm2"]
    added = 2 * 30 * 576**2 + 576 * 49152 - 61 * 576
    assert sliced_parameters(shape, 0.0) == dense_parameters(shape) + added
    assert skip_parameters(shape, 0.2) == 59 * 456**2 + 456 * 576
    assert layer_parameters(shape, 456) == 456 * (576 + 2 * 192 + 576 + 3 * 1536)


def test_the_pages_numbers_are_in_millions():
    assert number_asked("slicegpt smollm2 dense", None) == "134.5"
    assert number_asked("slicegpt smollm2 0.2", None) == f"{sliced_parameters(SHAPES['smollm2'], 0.2) / 1e6:.1f}"
    assert number_asked("slicegpt smollm2 skips 0.2", None) == f"{skip_parameters(SHAPES['smollm2'], 0.2) / 1e6:.1f}"
