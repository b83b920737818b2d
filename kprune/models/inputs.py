"""What a model reads: batches, their padding, positions and token types."""

import inspect
from typing import Any

import torch
from torch import Tensor

from kprune.errors import UserError
from kprune.models.families import family_of
from kprune.types import Model


def longest_input(model: Model) -> int:
    """Return the number of tokens that a model reads at most.

    Raises:
        UserError: the family is not supported, or the number depends on the padding token and the config has none.
    """
    config = model.config
    if not family_of(model).positions_after_padding:
        return config.max_position_embeddings
    if config.pad_token_id is None:
        raise UserError(
            "the model's config has no pad_token_id, behind which its positions begin: set it, 1 for RoBERTa"
        )
    return config.max_position_embeddings - config.pad_token_id - 1


def padding_of(model: Model) -> int:
    """Return the token that batches are padded with; 0 if the config has none that is in the vocabulary."""
    token = model.config.pad_token_id
    return token if token is not None and 0 <= token < model.config.vocab_size else 0


def token_types(model: Model) -> int:
    """Return the number of token types that a model reads; 0 if it reads none, even if its forward takes them, as DeBERTa's does."""
    if "token_type_ids" not in inspect.signature(type(model).forward).parameters:
        return 0
    return model.config.vocab_size if family_of(model).types_are_words else getattr(model.config, "type_vocab_size", 0)


def needs_token_types(model: Model) -> bool:
    """Tell whether a model needs the token types that a tokenizer gives: it has several, and takes a missing one as type 0."""
    return token_types(model) > 1 and not family_of(model).types_are_words


def on_device(batch: dict[str, Tensor], device: str | torch.device) -> dict[str, Tensor]:
    """Return a collated batch with its tensors on a device."""
    return {key: value.to(device) for key, value in batch.items()}


def call(model: Model, batch: dict[str, Tensor]) -> Any:
    """Return a model's output for a collated batch, with named fields even if its config asks for tuples."""
    own = model.config.return_dict
    # Set in the config: given as an argument, most models do not pass it on to their base model.
    model.config.return_dict = True
    try:
        return model(**model_inputs(batch))
    finally:
        model.config.return_dict = own


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a collated batch that a model's forward takes; of a batch with choices, all rows as one example's choices."""
    inputs: dict[str, Tensor] = {
        key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch
    }
    # [1, R, T]: each choice gets a logit of its own, and examples may have different numbers of choices.
    return {key: value[None] for key, value in inputs.items()} if "choices" in batch else inputs
