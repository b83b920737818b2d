"""GGUF files read back, and against torch in llama.cpp where it is installed (`pip install llama-cpp-python`, which compiles it)."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

import kprune
from kprune.checkpoint import check_format, check_kind, save
from kprune.checkpoint.gguf import interleaved
from kprune.checkpoint.gguf_tokenizer import WORDS, tokens_of
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.surgery import keep_units

gguf = pytest.importorskip("gguf")
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
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# An attention in the lowest layer, and one with a bias, are zeros in the file; that of layer 2 is gone.
FREE = {
    "heads": [[], [0, 2], [], [1]],
    "neurons": [[1, 5, 7], [], [0, 2, 40], []],
}
ALIKE = {"heads": [[0, 2], [1, 2], [0, 1], [0, 2]], "neurons": [[*range(7)], [*range(9, 16)]] * 2}
CASES = {
    "llama": ({}, FREE),
    "llama, uniform": ({"num_attention_heads": 8, "num_key_value_heads": 4}, ALIKE),
    "llama, tied": ({"tie_word_embeddings": True, "rope_parameters": LLAMA3}, FREE),
    "llama, biases": ({"attention_bias": True, "mlp_bias": True}, FREE),
    "llama, uniform, biases": (
        {"attention_bias": True, "mlp_bias": True, "num_attention_heads": 8, "num_key_value_heads": 4},
        ALIKE,
    ),
    "mistral": ({"sliding_window": 40}, FREE),
    "qwen2": ({}, FREE),
    "qwen2, uniform": ({}, ALIKE),
}


def tiny(case="llama"):
    torch.manual_seed(0)
    settings, kept = CASES[case]
    # A Llama's heads divide its hidden size; the others are as odd as they like.
    settings = {"num_attention_heads": 8, "num_key_value_heads": 4} | settings if case[:5] == "llama" else settings
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.partition(",")[0], **(SHAPE | settings)))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    view = view_of(model)
    for kind, units in kept.items():
        for block, which in zip(view.of_kind(kind), units, strict=True):
            keep_units(block, torch.tensor(which, dtype=torch.long))
    return model.eval()


def read(file):
    reader = gguf.GGUFReader(file)
    values = {name: field.contents() for name, field in reader.fields.items()}
    return values, {entry.name: torch.from_numpy(np.array(entry.data)) for entry in reader.tensors}


@pytest.mark.parametrize("case", CASES)
def test_a_file_read_back_has_the_widths_and_the_weights(case, tmp_path):
    model = tiny(case)
    save(model, tmp_path / "model", format="gguf-f32")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.gguf"]
    values, tensors = read(tmp_path / "model/model.gguf")
    alike = CASES[case][1] is ALIKE
    name = "llama" if alike else "deci"
    assert values["general.architecture"] == name
    biased = "biases" in case
    groups = [2] * 4 if alike else [1, 2, 1 if biased else 0, 1]
    expected = {
        "attention.head_count_kv": groups,
        "attention.head_count": [2 * count for count in groups],
        "feed_forward_length": [7] * 4 if alike else [3, 32, 3, 32],
    }
    for key, counts in expected.items():
        assert values[f"{name}.{key}"] == (counts[0] if alike else counts)
    assert values[f"{name}.attention.key_length"] == values[f"{name}.rope.dimension_count"] == 8
    assert values[f"{name}.context_length"] == (40 if case == "mistral" else 64)
    assert values["tokenizer.ggml.model"] == "none"
    state = model.state_dict()
    for layer in range(4):
        for module in ("down", "up", "gate"):
            weight = state.get(f"model.layers.{layer}.mlp.{module}_proj.weight")
            written = tensors[f"blk.{layer}.ffn_{module}.weight"]
            assert not written.any() if weight is None else torch.equal(written, weight)
        attention = [key for key in tensors if key.startswith(f"blk.{layer}.attn")]
        assert bool(attention) == (groups[layer] > 0)
        value = state.get(f"model.layers.{layer}.self_attn.v_proj.weight")
        if value is not None:
            assert torch.equal(tensors[f"blk.{layer}.attn_v.weight"], value)
            key = state[f"model.layers.{layer}.self_attn.k_proj.weight"]
            # HF turns columns i and i + 4 of a head together, llama.cpp 2i and 2i + 1.
            assert torch.equal(tensors[f"blk.{layer}.attn_k.weight"][:8:2], key[:4])
            assert torch.equal(tensors[f"blk.{layer}.attn_k.weight"][1:8:2], key[4:8])
    assert ("output.weight" in tensors) == (case != "llama, tied")
    assert ("rope_freqs.weight" in tensors) == (case == "llama, tied")


@torch.no_grad()
def test_transformers_reads_a_file_of_layers_that_are_alike(tmp_path):
    """With a reader that is not this project's."""
    model = tiny("llama, uniform")
    save(model, tmp_path, format="gguf-f32")
    ids = torch.randint(4, 60, (1, 10), generator=torch.Generator().manual_seed(0))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert type(loaded) is type(model)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_half_precision_is_of_matrices_alone(tmp_path):
    model = tiny("qwen2")
    save(model, tmp_path, format="gguf")
    _, tensors = read(tmp_path / "model.gguf")
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.float16 if tensor.dim() > 1 else torch.float32), name
    assert torch.equal(tensors["token_embd.weight"], model.model.embed_tokens.weight.half())


def test_interleaving_keeps_heads_apart():
    rows = torch.arange(16)[:, None]
    assert interleaved(rows, 8)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def byte_level(pre_tokenizer, normalizer=None, **settings):
    """A byte-level BPE trained on a few words."""
    backend = Tokenizer(models.BPE(**settings))
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
    )
    backend.train_from_iterator(["the cat sat on the mat 1999 and 2024", "don't they'LL  the\n\nthat"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.add_tokens([AddedToken("<call>", special=False)])
    return tokenizer


def ways():
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def by(pattern):
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    return {
        "gpt-2": (plain, {}),
        "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]), {}),
        "qwen2": (by(WORDS % ""), {}),
        "llama-bpe": (by(WORDS % "{1,3}"), {"ignore_merges": True}),
    }


@pytest.mark.parametrize("way", ways())
def test_a_tokenizer_is_told_by_how_it_splits(way):
    pre_tokenizer, settings = ways()[way]
    tokenizer = byte_level(pre_tokenizer, **settings)
    tokens = tokens_of(tokenizer, 310)
    assert (tokens.model, tokens.split) == ("gpt2", way)
    assert tokens.texts[:2] == ["<s>", "</s>"] and tokens.types[:2] == [3, 3]
    added = tokenizer.convert_tokens_to_ids("<call>")
    assert tokens.texts[added] == "<call>" and tokens.types[added] == 4
    assert len(tokens.texts) == len(tokens.types) == 310 and tokens.types[-1] == 5
    assert "Ġ t" in tokens.merges or "t h" in tokens.merges
    assert tokens.special["bos"] == 0 and tokens.adds == {"bos": False, "eos": False}


def sentence_pieces(prefix):
    """A BPE with bytes as a last resort, with the merges that transformers makes of SentencePiece's model."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=370, show_progress=False, special_tokens=names)
    trained.train_from_iterator(
        ["the cat sat on the mat 1999 and 2024", "don't they'LL  the that, a bee"] * 20, trainer
    )
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"]
    merges = [tuple(pair) for pair in model["merges"]]
    texts = list(dict.fromkeys(a + b for a, b in merges))
    cuts = [(text[:i], text[i:]) for text in texts for i in range(1, len(text))]
    merges = [(a, b) for a, b in cuts if a in vocabulary and b in vocabulary]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prefix == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend("▁")] * prefix + [normalizers.Replace(" ", "▁")]
        backend.normalizer = normalizers.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("prefix", [True, False, "metaspace"])
def test_sentence_pieces_are_ranked_by_their_merges(prefix):
    tokenizer = sentence_pieces(prefix)
    tokens = tokens_of(tokenizer, 380)
    assert (tokens.model, tokens.split, tokens.space_prefix) == ("llama", "default", bool(prefix))
    assert tokens.types[:4] == [2, 3, 3, 6] and tokens.types[258:260] == [6, 1] and tokens.types[-1] == 5
    assert tokens.adds == {"bos": True, "eos": False}
    scores = dict(zip(tokens.texts, tokens.scores, strict=True))
    assert scores["th"] > scores["▁the"] > scores["t"] and scores["t"] == scores["<s>"]


def test_what_llama_cpp_has_no_tokenizer_for():
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = {text: number for number, text in enumerate(["a", "b", "c", "ab", "bc", "abc"])}
    some = models.BPE(vocabulary, [("a", "b"), ("b", "c"), ("ab", "c")], byte_fallback=True)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    for tokenizer, message in (
        (words, "no BPE but WordLevel"),
        (
            byte_level(pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), plain])),
            "splits texts in a way that is none",
        ),
        (byte_level(plain, ignore_merges=True), "takes whole words"),
        (byte_level(plain, normalizers.Lowercase()), "changes texts before"),
        (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(some)), "merges some pairs of tokens alone"),
    ):
        with pytest.raises(UserError, match=f"{message}.*: save without a tokenizer"):
            tokens_of(tokenizer, 400)
    with pytest.raises(UserError, match="has the token .*, and the model 60 rows: give the model's own tokenizer"):
        tokens_of(byte_level(plain), 60)


def test_models_that_llama_cpp_has_no_architecture_for():
    def of(family, **settings):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(SHAPE | settings)))

    for model, message in (
        (of("qwen3"), "language models of llama, mistral, qwen2, this is a Qwen3ForCausalLM"),
        (of("llama", num_attention_heads=4, hidden_act="gelu"), "SiLU alone"),
        (
            of("llama", num_attention_heads=4, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}),
            "rotary positions of kind 'yarn'",
        ),
    ):
        with pytest.raises(UserError, match=f"{message}.*another format") as refused:
            check_kind(model, "gguf")
        assert "\n" not in str(refused.value)
        check_kind(model, "pruned")


def test_without_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'kprune\\[gguf\\]'"):
        check_format("gguf")


def llama_cpp():
    return pytest.importorskip(
        "llama_cpp", reason="llama.cpp is not installed (pip install llama-cpp-python compiles it)"
    )


def logits_in_llama_cpp(file, ids):
    """The logits of all tokens, [T, V], with a cache in float32."""
    module = llama_cpp()
    model = module.Llama(
        str(file),
        n_ctx=256,
        logits_all=True,
        verbose=False,
        n_threads=1,
        type_k=module.GGML_TYPE_F32,
        type_v=module.GGML_TYPE_F32,
    )
    model.eval(ids)
    return torch.tensor(np.array(model.scores[: len(ids)]))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_llama_cpp_computes_what_torch_does(case, tmp_path):
    model = tiny(case)
    save(model, tmp_path, format="gguf-f32")
    ids = torch.randint(4, 60, (1, 24), generator=torch.Generator().manual_seed(0))
    expected = model(ids).logits[0]
    found = logits_in_llama_cpp(tmp_path / "model.gguf", ids[0].tolist())
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("way", ways())
def test_llama_cpp_takes_texts_apart_as_transformers_does(way, tmp_path):
    pre_tokenizer, settings = ways()[way]
    tokenizer = byte_level(pre_tokenizer, **settings)
    config = AutoConfig.for_model(
        "llama", **(SHAPE | {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 304})
    )
    save(AutoModelForCausalLM.from_config(config), tmp_path, tokenizer, format="gguf")
    model = llama_cpp().Llama(str(tmp_path / "model.gguf"), verbose=False, vocab_only=True)
    for text in ("the cat, 19999 of them; don't", "they'LL  \n\n sit<call>on </s> the\tmat", "né 日本"):
        assert model.tokenize(text.encode(), add_bos=False, special=True) == tokenizer(text).input_ids, text


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [True, False, "metaspace"])
def test_llama_cpp_merges_sentence_pieces_as_transformers_does(prefix, tmp_path):
    tokenizer = sentence_pieces(prefix)
    config = AutoConfig.for_model("mistral", **(SHAPE | {"vocab_size": 380}))
    save(AutoModelForCausalLM.from_config(config), tmp_path, tokenizer, format="gguf")
    model = llama_cpp().Llama(str(tmp_path / "model.gguf"), verbose=False, vocab_only=True)
    for text in (
        "the cat, 19999 of them; don't",
        "they'LL  \n\n sit on the\tmat",
        "né 日本",
        "the that thatthe cat2024sat",
    ):
        assert model.tokenize(text.encode(), add_bos=True, special=True) == tokenizer(text).input_ids, text


@pytest.mark.slow
@pytest.mark.real_data
@torch.no_grad()
def test_a_pruned_smollm2_runs_in_llama_cpp(tmp_path):
    """By magnitude, so the numbers are bad, but they are the same ones; and the tokens are those of transformers."""
    folder = Path(os.environ["KPRUNE_MIRROR"]) / "kprune-reference/smollm2-135m-instruct"
    if not folder.is_dir():
        pytest.skip("the mirror has no smollm2-135m-instruct")
    llama_cpp()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = "The history of 1912 began, as they'd said, in a small town; its people were few."
    ids = tokenizer(text, return_tensors="pt")
    for uniform in (False, True):
        outcome = kprune.prune(model, [ids], params_reduction=0.2, method="magnitude", uniform=uniform)
        outcome.save(tmp_path / "small", tokenizer, format="gguf-f32")
        expected = outcome.model(**ids).logits[0]
        found = logits_in_llama_cpp(tmp_path / "small/model.gguf", ids.input_ids[0].tolist())
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    module = llama_cpp().Llama(str(tmp_path / "small/model.gguf"), verbose=False, vocab_only=True)
    for line in (text, json.dumps({"a": [1, 22, 333]}, indent=2), "<|im_start|>user\nHi<|im_end|>\n"):
        assert module.tokenize(line.encode(), add_bos=False, special=True) == tokenizer(line).input_ids
