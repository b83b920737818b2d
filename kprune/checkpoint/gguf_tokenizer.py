"""A tokenizer as a GGUF file has it: byte-level BPE, with the ways of splitting a text that llama.cpp knows by name."""

import json
from dataclasses import dataclass, field
from typing import Any

from kprune.errors import UserError

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROBE = "It's 12345 tests, WE'LL see:  a\tb\n\n \n c--d...  é日本語 'tis\r\n  don'T x_1 "
"""A text that every way of splitting takes apart in its own way."""


@dataclass(frozen=True)
class Tokens:
    """What a GGUF file says of a tokenizer.

    Attributes:
        model: "gpt2" for byte-level BPE, or "none".
        split: llama.cpp's name of the way that a text is split in before tokens are merged.
        texts: of all rows of the embedding.
        types: of each, 1 for a normal one, 3 for a control token, 4 for one that was added, 5 for a row that is unused.
        merges: pairs, joined by a blank.
        special: tokens by their roles.
        adds: whether the tokenizer puts a role's token at the beginning or end of a text.
    """

    model: str
    split: str | None = None
    texts: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)
    adds: dict[str, bool] = field(default_factory=dict)
    chat_template: str | None = None

    @classmethod
    def none(cls) -> "Tokens":
        """Return what a file says that has no tokenizer."""
        return cls("none")

    def add_to(self, writer: Any) -> None:
        """Write it."""
        writer.add_tokenizer_model(self.model)
        if self.split is None:
            return
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(self.texts)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
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
        UserError: llama.cpp has none that gives the same tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unknown("is not a fast one")
    content = json.loads(backend.to_str())
    model, normalizer = content["model"], content["normalizer"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _unknown(
            f"is no byte-level BPE but {model['type']}{' of bytes as a last resort' * bool(model['type'] == 'BPE')}"
        )
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise _unknown(f"changes texts before it splits them ({normalizer.get('type')})")
    split = split_of(backend.pre_tokenizer)
    if bool(model.get("ignore_merges")) != (split == "llama-bpe"):
        raise _unknown("takes whole words before their merges where llama.cpp does not, or the reverse")
    texts, types = [f"[PAD{row}]" for row in range(rows)], [5] * rows
    for text, number in tokenizer.get_vocab().items():
        if number >= rows:
            raise UserError(
                f"the tokenizer has the token {number}, and the model {rows} rows: give the model's own tokenizer"
            )
        texts[number], types[number] = text, 1
    for number, token in tokenizer.added_tokens_decoder.items():
        types[number] = 3 if token.special else 4
    roles = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "unk", "pad")}
    ids = tokenizer("a").input_ids
    return Tokens(
        model="gpt2",
        split=split,
        texts=texts,
        types=types,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        special={role: number for role, number in roles.items() if number is not None},
        adds={
            role: roles[role] is not None and len(ids) > 1 and ids[place] == roles[role]
            for role, place in (("bos", 0), ("eos", -1))
        },
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def split_of(pre_tokenizer: Any) -> str:
    """Return llama.cpp's name of the way that a pre-tokenizer splits texts.

    Raises:
        UserError: it is none of those that are known here.
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


def _unknown(why: str) -> UserError:
    return UserError(
        f"the tokenizer {why}, which a GGUF file can't say here: save without a tokenizer, and give llama.cpp numbers of tokens"
    )
