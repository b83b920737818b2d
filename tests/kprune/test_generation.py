"""The speed of a prompt and of one token more: what is timed, not how long it takes. And what a causal model's FLOPs are."""

import copy

import pytest
import torch
from families import family_settings
from language import POSITIONS, tiny_llama
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kprune.budgets import ParametersBudget
from kprune.budgets.latency.generation import decoding_step, measure_generation, read
from kprune.budgets.latency.timing import random_batch
from kprune.errors import OutOfReach, UserError
from kprune.models import view_of
from kprune.models.flops import model_flops, model_parameters
from kprune.models.surgery import keep_units
from kprune.models.uniform import blocks_of

SHAPE = dict(vocab_size=60, initializer_range=0.3, init_std=0.3)
GROUPED = SHAPE | dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
)


def hybrid(family):
    settings = family_settings(layers=3)[family] | {"vocab_size": 60, "max_position_embeddings": 64}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(GROUPED | settings))).eval()


MODELS = {
    "llama": tiny_llama,
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            **SHAPE,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    ).eval(),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SHAPE, n_embd=32, n_layer=3, n_head=4, n_positions=64)).eval(),
    "gpt2 that could read an encoder": lambda: GPT2LMHeadModel(
        GPT2Config(**SHAPE, n_embd=32, n_layer=3, n_head=4, n_positions=64, add_cross_attention=True)
    ).eval(),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**{**GROUPED, "num_key_value_heads": 4})).eval(),
    "lfm2": lambda: hybrid("lfm2"),
    "qwen3_5_text": lambda: hybrid("qwen3_5_text"),
    "granitemoehybrid": lambda: hybrid("granitemoehybrid"),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=4)).eval(),
    "mistral with a window as long": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=9)).eval(),
    "qwen2 with a window in two layers": lambda: Qwen2ForCausalLM(
        Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    ).eval(),
}


@pytest.fixture(params=MODELS)
def dense(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


def emptied(model):
    """A copy without the first attention and, in a hybrid, the first convolution or recurrence; and with fewer neurons."""
    pruned = copy.deepcopy(model)
    blocks = view_of(pruned).blocks
    for site in view_of(pruned).sites:
        if site.kind == "heads":
            keep_units(blocks_of(view_of(pruned), site)[0], torch.arange(0))
    keep_units(blocks[3], torch.arange(0, blocks[3].units, 2))
    return pruned


@pytest.mark.parametrize("change", [lambda model: model, emptied])
def test_every_step_decodes_the_token_behind_the_prompt(dense, change):
    model = change(dense)
    prompt = random_batch(model, 2, 9)
    with torch.no_grad():
        first = read(model, prompt).logits
        assert first.shape[:2] == (2, 1), "a prompt asks for its last token's logits alone"
        longer = torch.cat([prompt["input_ids"], first.argmax(-1)], dim=1)
        expected = model(input_ids=longer).logits[:, -1:]
        step = decoding_step(model, prompt)
        for _ in range(3):
            torch.testing.assert_close(step().logits, expected, atol=1e-4, rtol=1e-4)


def test_speeds_of_dense_and_pruned(dense, monkeypatch):
    """Of two examples, 9 tokens each: 18 tokens a prompt and 2 a step."""
    calls = []

    def alternate(pair, device):
        calls.append([call() for call in pair])
        return [[10.0, 10.0, 90.0], [5.0, 5.0, 5.0]]

    monkeypatch.setattr("kprune.budgets.latency.generation.alternate", alternate)
    found = measure_generation((dense, emptied(dense)), 2, 9)
    assert found == {"prefill": [1800.0, 3600.0], "decoding": [200.0, 400.0]}
    assert [len(pair) for pair in calls] == [2, 2]


def test_a_prompt_that_leaves_no_room_for_a_token():
    model = tiny_llama()
    measure_generation((model, model), 1, POSITIONS - 1)
    with pytest.raises(UserError, match=f"behind {POSITIONS} tokens, the model reads {POSITIONS}"):
        measure_generation((model, model), 1, POSITIONS)


def test_causal_attention_is_counted_in_full():
    """Of 4 query and 2 key/value heads of 8: projections, all s² scores and products of every query head, gated FFN."""
    s, d, layers = 10, 32, 3
    projections = 2 * s * d * (32 + 16 + 16 + 32)
    scores = 2 * 2 * s * s * 32
    assert model_flops(view_of(tiny_llama()), s) == layers * (projections + scores + 2 * s * d * 48 * 3)


def test_a_share_of_all_parameters():
    model = tiny_llama()
    view = view_of(model)
    embeddings, layer, norms = 60 * 32, 32 * (32 + 16 + 16 + 32) + 3 * 32 * 48, 7 * 32
    assert model_parameters(view) == embeddings + 3 * layer + norms, "tied embeddings count once"
    limit = ParametersBudget(0.4, of="model").limit(view)
    assert limit == pytest.approx(0.6 * model_parameters(view) - embeddings - norms)
    with pytest.raises(OutOfReach, match="of the model's parameters"):
        ParametersBudget(0.97, of="model").limit(view)
    with pytest.raises(UserError, match="of='head' is unknown: give one of layers, model"):
        ParametersBudget(0.4, of="head")
