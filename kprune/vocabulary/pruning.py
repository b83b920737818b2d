"""Cut the vocabulary of a user's own model, pruned or not, in one call."""

import copy
from collections.abc import Iterable
from typing import Any

from kprune.api import Pruned
from kprune.checkpoint import check_saveable
from kprune.checks import check_class
from kprune.contract import Outcome
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.flops import megabytes, model_parameters
from kprune.plan import Plan
from kprune.vocabulary.tokens import Text, vocabulary_of
from kprune.vocabulary.weights import cut_vocabulary
from kprune.wrappers import rewrapped, unwrapped, wrapper_of


def prune_vocabulary(model: Any, texts: Iterable[Text], tokenizer: Any = None) -> Pruned:
    """Keep the tokens that texts use, and those that spell everything else; model and tokenizer are left as they were.

    A text of kept tokens has the same tokens as before, under new numbers, and the model's answer to it is the same to the last
    bit; a language model's logits are those of the kept tokens. Any other text is spelled by more tokens than before.
    All of this holds if each character in the tokenizer's tokens is a token, too, as in any trained tokenizer.

    Args:
        model: of transformers, with any head or none, a SentenceTransformer or CrossEncoder, or what `kprune.prune` gave back.
        texts: like those that the model will read, or lists of their token numbers; no labels. All of the training texts is best.
        tokenizer: the model's own, a fast one; of a SentenceTransformer or CrossEncoder it may be left out.

    Returns:
        `outcome.model` and `outcome.tokenizer` go together, and `outcome.save(folder)` writes both; `outcome.details["vocabulary"]`
        has the tokens `kept` and what they are `of`, and `parameters` and `megabytes` (of the weights) before and after.

    Raises:
        UserError: there is no text, the tokenizer is slow or another model's, or the model's word embeddings can't be cut.
    """
    before = model if isinstance(model, Outcome) else None
    given = model if before is None else before.model
    if before is not None and before.count_units:
        raise UserError(
            "the pruned model decides for each input which units it computes, and can't be saved: give another model"
        )
    inner = unwrapped(given)
    check_class(inner)
    if tokenizer is None and wrapper_of(given) is None:
        raise UserError(
            "the model does not come with its tokenizer: give it, tokenizer=AutoTokenizer.from_pretrained(...)"
        )
    vocabulary = vocabulary_of(inner, given.tokenizer if tokenizer is None else tokenizer, texts)
    check_saveable(inner)
    small = copy.deepcopy(inner)
    cut_vocabulary(small, vocabulary.kept)
    check_saveable(small)
    wrapped = rewrapped(given, small, vocabulary.tokenizer)
    views = view_of(inner), view_of(small)
    found = {
        "kept": len(vocabulary.kept),
        "of": vocabulary.of,
        "parameters": [model_parameters(view) for view in views],
        "megabytes": [megabytes(view) for view in views],
    }
    if before is None:
        plan = Plan.of(views[0], [range(block.units) for block in views[0].blocks])
        return Pruned(wrapped, plan, {}, {"vocabulary": found}, tokenizer=vocabulary.tokenizer)
    details = before.details | {"vocabulary": found}
    return Pruned(wrapped, before.plan, before.seconds_by_stage, details, tokenizer=vocabulary.tokenizer)
