"""Masked texts, as masked language models are asked about."""

import random
from typing import Any

from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives.base import IGNORED

SHARE = 0.15
"""Share of a text's tokens that are masked, as in BERT's pretraining (Devlin et al., 2019)."""


def check_mask_token(tokenizer: Any) -> None:
    """Check that a tokenizer has a token to mask others with.

    Raises:
        UserError: it has none.
    """
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"the tokenizer ({type(tokenizer).__name__}) has no mask token, and a masked language model is asked what stood in "
            "its place: give the tokenizer that the model was pretrained with"
        )


def mask_tokens(example: Example, tokenizer: Any) -> Example:
    """Return an example with tokens masked, and what they were as its label; -100 elsewhere.

    15 % of the tokens that are not special are masked, one at least. They are drawn with the example's own tokens, so that
    neither the other examples nor their order matters. All of them become the mask token: the tenth that BERT's pretraining
    leaves as it is, and the tenth that it replaces by others, ask for less or for nothing.
    """
    ids = list(example["input_ids"])
    special = set(tokenizer.all_special_ids)
    places = [place for place, token in enumerate(ids) if token not in special]
    count = min(len(places), max(1, round(SHARE * len(places))))
    chosen = set(random.Random(",".join(map(str, ids))).sample(places, count))
    label = [token if place in chosen else IGNORED for place, token in enumerate(ids)]
    hidden = [tokenizer.mask_token_id if place in chosen else token for place, token in enumerate(ids)]
    return {**example, "input_ids": hidden, "label": label}
