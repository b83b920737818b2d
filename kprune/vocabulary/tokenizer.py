"""A fast tokenizer with fewer tokens: which ones it needs for those that are kept, and how its tokenizer.json is cut to them.

Why a text of kept tokens is split as before:

- WordPiece takes the longest token at each place, which still is the longest of those that are left.
- BPE joins the pair of the lowest rank, again and again. Within a token of the result, these are the pairs by which the token
  alone is made (`joined`), whatever stands beside it; all of them stay, in their order, so the lowest of all that there were is
  the lowest of those that are left.
- Unigram takes the path of the highest score, which still is the highest of those that are left. Characters that are no
  token have the lowest token's score less a constant, so that token stays, too.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kprune.errors import UserError, one_line
from kprune.quiet import quiet_transformers

KINDS = ("WordPiece", "BPE", "Unigram")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""Tokens of single bytes, which spell a character that is no token."""
SETTINGS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""Files of a tokenizer beside which others, such as vocab.txt, hold the whole vocabulary again."""


def core_of(tokenizer: Any) -> dict[str, Any]:
    """Return the content of a fast tokenizer's tokenizer.json.

    Raises:
        UserError: the tokenizer is slow, or of a kind that can't be cut.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"the tokenizer is a {type(tokenizer).__name__}, which is no fast one of the tokenizers library: give one that "
            "saves a tokenizer.json, as AutoTokenizer.from_pretrained loads it"
        )
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    model = core["model"]
    if model["type"] not in KINDS:
        raise UserError(
            f"the tokenizer is a {model['type']}, which can't spell what is left out: give one of {', '.join(KINDS)}"
        )
    marks = [name for name in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if model["type"] == "BPE" and marks:
        raise UserError(
            f"the tokenizer is a BPE with {marks[0]}={model[marks[0]]}, of which kprune does not know how its tokens are joined: "
            "keep its vocabulary whole"
        )
    return core


def tokens_of(core: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of a tokenizer's own tokens, without those that were added, in their order."""
    vocabulary = core["model"]["vocab"]
    if isinstance(vocabulary, list):
        return {token: number for number, (token, _) in enumerate(vocabulary)}
    return dict(sorted(vocabulary.items(), key=lambda entry: entry[1]))


def spelling_tokens(core: Mapping[str, Any]) -> set[int]:
    """Return the ids that a tokenizer needs whatever it is to read: added ones, single characters, bytes, the unknown one."""
    model, tokens = core["model"], tokens_of(core)
    prefix = model.get("continuing_subword_prefix") or ""
    kept = {token["id"] for token in core["added_tokens"]}
    kept |= {
        number for token, number in tokens.items() if len(token.removeprefix(prefix)) == 1 or BYTE.fullmatch(token)
    }
    if model["type"] == "Unigram":
        lowest = min(model["vocab"], key=lambda entry: entry[1])
        kept.add(model["vocab"].index(lowest))
        kept |= set() if model["unk_id"] is None else {model["unk_id"]}
    elif model["unk_token"] in tokens:
        kept.add(tokens[model["unk_token"]])
    return kept


def with_parts(core: Mapping[str, Any], kept: Iterable[int]) -> set[int]:
    """Return ids, and the ids of the tokens from which BPE joins them."""
    kept = set(kept)
    if core["model"]["type"] != "BPE":
        return kept
    tokens = tokens_of(core)
    ranks = {pair: rank for rank, pair in enumerate(map(pair_of, core["model"]["merges"]))}
    for token, number in tokens.items():
        if number in kept and len(token) > 1:
            kept |= {tokens[part] for part in joined(token, ranks)}
    return kept


def joined(token: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Return what BPE joins on its way to a token: always the pair of the lowest rank, the first of several."""
    symbols, made = list(token), []
    while len(symbols) > 1:
        pairs = list(zip(symbols, symbols[1:], strict=False))
        rank, place = min((ranks.get(pair, len(ranks)), place) for place, pair in enumerate(pairs))
        if rank == len(ranks):
            break
        symbols[place : place + 2] = ["".join(pairs[place])]
        made.append(symbols[place])
    return made


def pair_of(merge: Any) -> tuple[str, str]:
    """Return a merge's pair, which older files have as one text."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def in_order(core: Mapping[str, Any], kept: Iterable[int]) -> list[int]:
    """Return ids in the order of their new numbers: a tokenizer's own tokens, then added ones, then rows that no token has."""
    own = set(tokens_of(core).values())
    named = own | {token["id"] for token in core["added_tokens"]}
    return sorted(kept, key=lambda number: (number not in own, number not in named, number))


def cut(core: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """Return the content of a tokenizer.json with some tokens alone.

    Args:
        new: the new number of each id that is kept, in the order of `in_order`.
    """
    model, tokens = dict(core["model"]), tokens_of(core)
    if model["type"] == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        model["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
    else:
        model["vocab"] = {token: new[number] for token, number in tokens.items() if number in new}
    if model["type"] == "BPE":
        model["merges"] = [merge for merge in model["merges"] if left(pair_of(merge), model["vocab"])]
    added = [token | {"id": new[token["id"]]} for token in core["added_tokens"]]
    changed = {"model": model, "added_tokens": sorted(added, key=lambda token: token["id"])}
    if core.get("padding"):
        changed["padding"] = core["padding"] | {"pad_id": new.get(core["padding"]["pad_id"], 0)}
    return {**core, **changed, "post_processor": renumbered(core.get("post_processor"), new)}


def left(pair: tuple[str, str], vocabulary: Mapping[str, int]) -> bool:
    """Tell whether both parts of a pair are left, and the token that they are joined to, too."""
    return all(token in vocabulary for token in (*pair, "".join(pair)))


def renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """Return what a tokenizer puts around its tokens, with new numbers."""
    if not processor:
        return processor
    changed = dict(processor)
    for name in ("cls", "sep"):  # of BERT's and RoBERTa's
        if name in processor:
            token, number = processor[name]
            changed[name] = [token, new[number]]
    if processor["type"] == "TemplateProcessing":
        changed["special_tokens"] = {
            name: token | {"ids": [new[number] for number in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
    if processor["type"] == "Sequence":
        changed["processors"] = [renumbered(inner, new) for inner in processor["processors"]]
    return changed


def rebuilt(tokenizer: Any, core: Mapping[str, Any], new: Mapping[int, int]) -> Any:
    """Return a tokenizer of the same class and settings, loaded from a folder as it will be, with another tokenizer.json.

    Raises:
        UserError: its class makes something else of the file.
    """
    wanted = {token: new[number] for token, number in tokenizer.get_vocab().items() if number in new}
    with tempfile.TemporaryDirectory() as name, quiet_transformers():
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        for file in folder.iterdir():
            if file.is_file() and file.name not in SETTINGS:
                file.unlink()
        (folder / SETTINGS[0]).write_text(json.dumps(core, ensure_ascii=False), encoding="utf-8")
        _renumber_settings(folder / SETTINGS[1], new)
        try:
            loaded = type(tokenizer).from_pretrained(folder, local_files_only=True)
        except Exception as error:  # whatever a class of its own makes of the file
            raise UserError(
                f"the tokenizer does not load with fewer tokens ({one_line(error)}): keep it whole"
            ) from error
    if loaded.get_vocab() != wanted:
        raise UserError(
            f"a {type(tokenizer).__name__} numbers its tokens otherwise than its tokenizer.json says: load it as a "
            "PreTrainedTokenizerFast"
        )
    loaded.name_or_path = tokenizer.name_or_path
    return loaded


def _renumber_settings(file: Path, new: Mapping[int, int]) -> None:
    """Write new numbers into a tokenizer_config.json that lists added tokens by number, as transformers 4 did."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    listed = settings.get("added_tokens_decoder")
    if listed:
        settings["added_tokens_decoder"] = {str(new[int(number)]): token for number, token in listed.items()}
        file.write_text(json.dumps(settings), encoding="utf-8")


def ids_of(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of whole texts, with the tokens that a tokenizer puts around them."""
    return tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"] if texts else []
