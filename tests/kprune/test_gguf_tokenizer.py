"""Tokenizers in the files of llama.cpp: how they split and merge."""

import json

import pytest
from llama_files import SHAPE, llama_cpp
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from kprune.checkpoint import save
from kprune.checkpoint.gguf_tokenizer import WORDS, tokens_of
from kprune.errors import UserError


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
