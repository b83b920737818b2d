"""What the tests of llama.cpp's files share: the shape of a tiny model, and llama.cpp itself, where it is installed."""

import pytest

SHAPE = dict(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=3,
    head_dim=8,
    intermediate_size=48,
    max_position_embeddings=64,
    initializer_range=0.3,
    pad_token_id=1,
    bos_token_id=2,
    eos_token_id=3,
)


def llama_cpp():
    return pytest.importorskip(
        "llama_cpp", reason="llama.cpp is not installed (pip install llama-cpp-python compiles it)"
    )
