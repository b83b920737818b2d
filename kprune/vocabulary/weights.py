"""A model with the rows of fewer tokens: word embeddings, a head over the vocabulary, and the numbers that settings name tokens by."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kprune.errors import UserError
from kprune.types import Model

TOKEN = "_token_id"
"""The end of the names of settings that hold a token, or several."""
LISTS = ("suppress_tokens", "begin_suppress_tokens")
"""Settings of generation that list tokens which must not be generated."""


def word_rows(model: Model) -> int:
    """Return the number of rows of a model's word embeddings.

    Raises:
        UserError: they are of a kind that can't be cut, or shared with a module that kprune does not know.
    """
    return len(next(_word_weights(model)))


@torch.no_grad()
def cut_vocabulary(model: Model, kept: Sequence[int]) -> None:
    """Keep the rows of some tokens, numbered anew in this order, in place: of word embeddings, a head over the vocabulary and its bias.

    Raises:
        UserError: as `word_rows` does.
    """
    weights = list(_word_weights(model))
    rows, new = len(weights[0]), {old: number for number, old in enumerate(kept)}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for weight in weights:
        cut = nn.Parameter(weight[torch.tensor(kept, device=weight.device)].clone(), weight.requires_grad)
        for name in names[id(weight)]:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, cut)
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    embeddings.num_embeddings = len(kept)
    embeddings.padding_idx = new.get(embeddings.padding_idx)
    if head is not None:
        head.out_features = len(kept)
    for module in model.modules():
        if getattr(module, "vocab_size", None) == rows:
            setattr(module, "vocab_size", len(kept))  # noqa: B010 (some modules have it)
        for name, value in list(vars(module).items()):
            if name.endswith(TOKEN) and isinstance(value, int):
                setattr(module, name, new.get(value, value))
    model.config.vocab_size = len(kept)
    _renumber(model.config, new)
    if model.can_generate():
        _renumber(model.generation_config, new)


def named_tokens(model: Model) -> set[int]:
    """Return the tokens of the vocabulary that a model's settings name, such as the padding's."""
    settings = [model.config, *([model.generation_config] if model.can_generate() else [])]
    found: set[int] = set()
    for config in settings:
        for _, value in _tokens_in(config):
            found |= {value} if isinstance(value, int) else set(value)
    return {token for token in found if 0 <= token < word_rows(model)}


def _word_weights(model: Model) -> Iterator[nn.Parameter]:
    """Yield the weights that have a row for each token, the word embeddings first, each once.

    Raises:
        UserError: as `word_rows` does.
    """
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    if not isinstance(embeddings, nn.Embedding):
        raise UserError(
            f"the model's word embeddings are a {type(embeddings).__name__}, not an Embedding: keep its vocabulary whole"
        )
    found: dict[int, Any] = {id(embeddings.weight): embeddings.weight}
    biases = _head_biases(model, head)
    for weight in () if head is None else (head.weight, *biases):
        found[id(weight)] = weight
        if len(weight) != len(embeddings.weight):
            raise UserError(
                f"the model's head has {len(weight):,} rows, and its word embeddings {len(embeddings.weight):,}: keep its "
                "vocabulary whole"
            )
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = model.get_submodule(name.rpartition(".")[0])
        own = owner in (embeddings, head) or any(parameter is bias for bias in biases)
        if id(parameter) in found and not own:
            raise UserError(
                f"the model's word embeddings are shared with {name}, which kprune does not know: give that module a copy of its "
                "own, or keep the vocabulary whole"
            )
    yield from found.values()


def _head_biases(model: Model, head: Any) -> list[nn.Parameter]:
    """Return the biases of a head over the vocabulary: its own, and the bias of the module that holds the head.

    In ESM, the holder adds a bias of its own; in other models of masked words, its bias is the head's under a second name.
    """
    name = next((name for name, module in model.named_modules() if module is head), "")
    holder = model.get_submodule(name.rpartition(".")[0])
    found = (getattr(module, "bias", None) for module in (head, holder))
    return [bias for bias in found if isinstance(bias, nn.Parameter)]


def _tokens_in(config: Any) -> Iterator[tuple[str, int | list[int]]]:
    """Yield the settings that hold a token, or several."""
    for name, value in config.to_dict().items():
        if name.endswith(TOKEN) and _is_tokens(value):
            yield name, value


def _is_tokens(value: Any) -> bool:
    entries = value if isinstance(value, list) and value else [value]
    return all(isinstance(entry, int) and not isinstance(entry, bool) for entry in entries)


def _renumber(config: Any, new: Mapping[int, int]) -> None:
    """Write new numbers of tokens into settings, in place; a token that was none of the vocabulary stays what it was."""
    for name, value in list(_tokens_in(config)):
        setattr(config, name, new.get(value, value) if isinstance(value, int) else [new.get(v, v) for v in value])
    for name in LISTS:
        if getattr(config, name, None):
            setattr(config, name, [new[token] for token in getattr(config, name) if token in new])
    # If no sequence is left, None: `generate` refuses an empty list.
    if getattr(config, "bad_words_ids", None):
        words = [[new[token] for token in word] for word in config.bad_words_ids if new.keys() >= set(word)]
        config.bad_words_ids = words or None
    if getattr(config, "sequence_bias", None):
        given = config.sequence_bias
        pairs = given.items() if isinstance(given, Mapping) else given
        biases = [[[new[token] for token in word], bias] for word, bias in pairs if new.keys() >= set(word)]
        config.sequence_bias = biases or None
