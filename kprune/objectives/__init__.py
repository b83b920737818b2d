"""The kinds of heads that can be pruned, a file each. To add one, write a file and an entry in `OBJECTIVES`."""

from kprune.errors import UserError
from kprune.objectives.base import Objective
from kprune.objectives.causal_lm import CausalLM
from kprune.objectives.classification import Classification
from kprune.objectives.embedding import Embedding
from kprune.objectives.masked_lm import MaskedLM
from kprune.objectives.multi_label import MultiLabel
from kprune.objectives.multiple_choice import MultipleChoice
from kprune.objectives.regression import Regression
from kprune.objectives.span import Span
from kprune.objectives.token_classification import TokenClassification
from kprune.types import Model

__all__ = [
    "OBJECTIVES",
    "CausalLM",
    "Classification",
    "Embedding",
    "MaskedLM",
    "MultiLabel",
    "MultipleChoice",
    "Objective",
    "Regression",
    "Span",
    "TokenClassification",
    "objective_of",
    "reads_choices",
]

OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind
    for kind in (
        MultiLabel,
        Regression,
        Classification,
        MultipleChoice,
        TokenClassification,
        Span,
        CausalLM,
        MaskedLM,
        Embedding,
    )
}
"""By name. The first that fits a model's head is taken, so a special case comes before its general one."""


def objective_of(model: Model) -> Objective:
    """Return the objective that a transformers model's head asks for.

    Raises:
        UserError: no kind of head fits.
    """
    for kind in OBJECTIVES.values():
        if kind.fits(model):
            return kind()
    classes = " or ".join(sorted({f"...{kind.class_suffixes[0]}" for kind in OBJECTIVES.values()}))
    raise UserError(f"{type(model).__name__} has no head K-prune can compare; use a {classes} model")


def reads_choices(model: Model) -> bool:
    """Tell whether a model reads several texts for each example, [B, choices, T]."""
    return any(kind.of_choices and type(model).__name__.endswith(kind.class_suffixes) for kind in OBJECTIVES.values())
