"""A tokenizer as a GGUF file has it: byte-level BPE, or SentencePiece's BPE with bytes as a last resort."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kprune.errors import UserError

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROBE = "It's 12345 tests, WE'LL see:  a\tb\n\n \n c--d...  é日本語 'tis\r\n  don'T x_1 "
"""A text that every way of splitting takes apart in its own way."""
NORMAL, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens in llama.cpp."""


@dataclass(frozen=True)
class Tokens:
    """What a GGUF file says of a tokenizer.

    Attributes:
        model: "gpt2" for byte-level BPE, "llama" for SentencePiece's, or "none".
        texts, types: of all rows of the embedding.
        split: of "gpt2", llama.cpp's name of the way that a text is split in before tokens are merged.
        merges: of "gpt2", pairs joined by a blank.
        scores: of "llama", of all rows: of two pairs of tokens, the one that makes the token of higher score is merged first.
        space_prefix: of "llama", whether a text begins with a blank of the tokenizer's own.
        special: tokens by their roles.
        adds: whether the tokenizer puts a role's token at the beginning or end of a text.
    """

    model: str
    texts: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    split: str = "default"
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_prefix: bool = False
    special: dict[str, int] = field(default_factory=dict)
    adds: dict[str, bool] = field(default_factory=dict)
    chat_template: str | None = None

    @classmethod
    def none(cls) -> "Tokens":
        """Return the entry of a file without a tokenizer."""
        return cls("none")

    def add_to(self, writer: Any) -> None:
        """Write the tokenizer into a GGUF file."""
        writer.add_tokenizer_model(self.model)
        if not self.texts:
            return
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(self.texts)
        writer.add_token_types(self.types)
        if self.model == "gpt2":
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.space_prefix)
        for role, number in self.special.items():
            getattr(writer, f"add_{role}_token_id")(number)
        for role, added in self.adds.items():
            getattr(writer, f"add_add_{role}_token")(added)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def tokens_of(tokenizer: Any, rows: int) -> Tokens:
    """Return what a GGUF file says of a tokenizer of transformers.

    Args:
        rows: of the embedding.

    Raises:
        UserError: no tokenizer of llama.cpp gives the same tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unknown("is not a fast one")
    content = json.loads(backend.to_str())
    if content["model"]["type"] != "BPE":
        raise _unknown(f"is no BPE but {content['model']['type']}")
    texts, types = texts_and_types(tokenizer, rows)
    roles = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "unk", "pad")}
    ids = tokenizer("a").input_ids
    common = {
        "texts": texts,
        "types": types,
        "special": {role: number for role, number in roles.items() if number is not None},
        "adds": {
            role: roles[role] is not None and len(ids) > 1 and ids[place] == roles[role]
            for role, place in (("bos", 0), ("eos", -1))
        },
        "chat_template": tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    }
    if content["model"].get("byte_fallback"):
        return sentence_pieces(content, common)
    return byte_level(content, backend.pre_tokenizer, common)


def texts_and_types(tokenizer: Any, rows: int) -> tuple[list[str], list[int]]:
    """Return the texts and types of as many tokens as the embedding has rows.

    Raises:
        UserError: the tokenizer has more.
    """
    texts, types = [f"[PAD{row}]" for row in range(rows)], [UNUSED] * rows
    for text, number in tokenizer.get_vocab().items():
        if number >= rows:
            raise UserError(
                f"the tokenizer has the token {number}, and the model {rows} rows: give the model's own tokenizer"
            )
        texts[number], types[number] = text, NORMAL
    for number, token in tokenizer.added_tokens_decoder.items():
        types[number] = CONTROL if token.special else ADDED
    return texts, types


def byte_level(content: Mapping[str, Any], pre_tokenizer: Any, common: dict[str, Any]) -> Tokens:
    """Return byte-level BPE, as of GPT-2, Llama 3, Qwen 2 and SmolLM2.

    Raises:
        UserError: llama.cpp splits texts in no such way.
    """
    model, normalizer = content["model"], content["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        raise _unknown(f"changes texts before it splits them ({normalizer['type']})")
    split = split_of(pre_tokenizer)
    if bool(model.get("ignore_merges")) != (split == "llama-bpe"):
        raise _unknown("takes whole words before their merges where llama.cpp does not, or the reverse")
    return Tokens("gpt2", split=split, merges=[" ".join(pair) for pair in pairs_of(model)], **common)


def split_of(pre_tokenizer: Any) -> str:
    """Return llama.cpp's name of the way that a pre-tokenizer splits texts.

    Raises:
        UserError: it is not one of the ways that kprune knows.
    """
    from tokenizers import Regex, pre_tokenizers

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def by(pattern: str) -> Any:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    known = {
        "gpt-2": plain,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]),
        "qwen2": by(WORDS % ""),
        "llama-bpe": by(WORDS % "{1,3}"),
    }
    pieces = pre_tokenizer.pre_tokenize_str(PROBE) if pre_tokenizer is not None else None
    for name, other in known.items():
        if pieces == other.pre_tokenize_str(PROBE):
            return name
    raise _unknown(f"splits texts in a way that is none of {', '.join(known)}")


def sentence_pieces(content: Mapping[str, Any], common: dict[str, Any]) -> Tokens:
    """Return SentencePiece's BPE, as of Llama 2 and Mistral.

    Raises:
        UserError: llama.cpp, which merges any two tokens that make a third, would give other tokens.
    """
    model, texts, types = content["model"], common["texts"], list(common["types"])
    pairs, vocabulary = pairs_of(model), model["vocab"]
    rank: dict[str, int] = {}
    for place, (first, second) in enumerate(pairs):
        rank.setdefault(first + second, place)
    there = set(pairs)
    for text in rank:
        halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        if any(a in vocabulary and b in vocabulary and (a, b) not in there for a, b in halves):
            raise _unknown("merges some pairs of tokens alone, where llama.cpp merges all")
    for number, text in enumerate(texts):
        if text == model.get("unk_token"):
            types[number] = UNKNOWN
        elif types[number] == NORMAL and len(text) == 6 and text.startswith("<0x"):
            types[number] = BYTE
    # A token that no merge makes is a character or a byte, or is found whole.
    scores = [-float(rank.get(text, len(pairs))) for text in texts]
    return Tokens("llama", scores=scores, space_prefix=begins_with_blank(content), **(common | {"types": types}))


def begins_with_blank(content: Mapping[str, Any]) -> bool:
    """Tell whether a tokenizer puts a blank before a text.

    Raises:
        UserError: it changes or splits texts in another way.
    """
    normalizer, splitter = content["normalizer"], content["pre_tokenizer"]
    steps = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    kinds = [step["type"] for step in steps if step]
    if splitter is None and kinds in (["Prepend", "Replace"], ["Replace"]):
        return "Prepend" in kinds
    if not kinds and splitter and splitter["type"] == "Metaspace" and not splitter.get("split", True):
        return splitter.get("prepend_scheme", "always") != "never"
    raise _unknown("changes or splits texts in a way that is none of SentencePiece's")


def pairs_of(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a BPE's merges, the first one first."""
    merges: Sequence[str | Sequence[str]] = model["merges"]
    halves = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges)
    return [(first, second) for first, second in halves]


def _unknown(why: str) -> UserError:
    return UserError(
        f"the tokenizer {why}, which kprune can't write into a GGUF file: save without a tokenizer, which "
        'outcome.save(folder, format="gguf") in Python does, and give llama.cpp token numbers'
    )
