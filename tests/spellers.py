"""Tokenizers of every kind, trained on lines of made-up words, of which a few lines use a part of the tokens; tiny models with them."""

import json
import random

import torch
from decoders import SHAPE as DECODER
from tiny import SHAPE
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

SYLLABLES = [first + second for first in "bdfgklmnprst" for second in "aeiou"]


def lines(count: int = 400, seed: int = 0) -> list[str]:
    """Lines of eight words out of 150, the first ones more often."""
    drawn = random.Random(0)
    words = ["".join(drawn.choices(SYLLABLES, k=drawn.randint(1, 4))) for _ in range(150)]
    drawn.seed(seed)
    return [" ".join(drawn.choices(words, range(150, 0, -1), k=8)) + "." for _ in range(count)]


def wordpiece() -> BertTokenizer:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[unused0]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core.train_from_iterator(lines(), trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    return BertTokenizer(vocab=core.get_vocab())


def byte_level() -> GPT2Tokenizer:
    vocabulary, merges = _byte_level(["<|endoftext|>"])
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>")


def byte_level_after_padding() -> RobertaTokenizer:
    vocabulary, merges = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return RobertaTokenizer(vocab=vocabulary, merges=merges)


def unigram() -> XLMRobertaTokenizer:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    core.train_from_iterator(
        lines(), trainers.UnigramTrainer(vocab_size=250, special_tokens=special, unk_token="<unk>")
    )
    pieces = [(piece, score) for piece, score in json.loads(core.to_str())["model"]["vocab"]]
    return XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])


def bytes_behind() -> LlamaTokenizer:
    """A SentencePiece's BPE, which spells characters that it does not know by their bytes."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core.train_from_iterator(lines(), trainers.BpeTrainer(vocab_size=600, special_tokens=special))
    vocabulary, merges = _joins(core)
    return LlamaTokenizer(vocab=vocabulary, merges=merges, pad_token="</s>")


def _byte_level(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        lines(), trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    )
    return _joins(core)


def _joins(core: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(core.to_str())["model"]
    return model["vocab"], [(first, second) for first, second in model["merges"]]


TOKENIZERS = {
    "bert": wordpiece,
    "electra": wordpiece,
    "distilbert": wordpiece,
    "gpt2": byte_level,
    "roberta": byte_level_after_padding,
    "mpnet": byte_level_after_padding,
    "xlm-roberta": unigram,
    "deberta-v2": unigram,
    "modernbert": byte_level,
    "llama": bytes_behind,
    "opt": byte_level_after_padding,
}
DECODERS = ["gpt2", "llama", "opt"]
ROWS = 7
"""Of the word embeddings that no token has, as where they are rounded up."""


def spelling_model(family="bert", auto=AutoModelForSequenceClassification, tokenizer=None, **settings):
    """A tiny model in float32 with a tokenizer of its family's kind."""
    torch.manual_seed(0)
    tokenizer = tokenizer or TOKENIZERS[family]()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    shape = DECODER if family in DECODERS else SHAPE
    config = shape | special | {"vocab_size": len(tokenizer) + ROWS} | settings
    if family == "opt":
        config |= {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3}
    if family == "distilbert":
        config |= {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
    return auto.from_config(AutoConfig.for_model(family, **config)).eval(), tokenizer


@torch.no_grad()
def answers(model, tokenizer, texts):
    return model(**tokenizer(texts, padding=True, return_tensors="pt"))[0]
