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
    "auto_class_for",
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


def auto_class_for(name: str) -> str | None:
    """Return the name of the auto class that loads a transformers class, given by its name; None if no kind of head fits."""
    return next((kind.auto_class for kind in OBJECTIVES.values() if name.endswith(kind.class_suffixes)), None)


def objective_of(model: Model, task: str | Objective | None = None) -> Objective:
    """Return the objective that a transformers model's head asks for, or the one that is given or named.

    Raises:
        UserError: no kind of head fits, the name is unknown, or the model has another head.
    """
    if task is not None:
        return _checked(model, task)
    for kind in OBJECTIVES.values():
        if kind.fits(model):
            return kind()
    classes = " or ".join(sorted({f"...{kind.class_suffixes[0]}" for kind in OBJECTIVES.values()}))
    raise UserError(f"{type(model).__name__} has no head that kprune can compare: use a {classes} model")


def _checked(model: Model, task: str | Objective) -> Objective:
    if not isinstance(task, Objective) and (not isinstance(task, str) or task not in OBJECTIVES):
        raise UserError(f"task '{task}' is unknown: use {', '.join(OBJECTIVES)}, or leave it out")
    objective = task if isinstance(task, Objective) else OBJECTIVES[task]()
    if not getattr(objective, "class_suffixes", ()):
        raise UserError(
            f"{type(objective).__name__} does not say which models have its head: give it class_suffixes, such as "
            "('ForSequenceClassification',)"
        )
    name = type(model).__name__
    if not name.endswith(objective.class_suffixes):
        raise UserError(
            f"task '{objective.name}' is for a ...{objective.class_suffixes[0]} model, this is a {name}: leave task out"
        )
    if isinstance(task, str):
        objective.fits(model)  # raises if a head of this class predicts something else
    return objective


def reads_choices(model: Model) -> bool:
    """Tell whether a model reads several texts for each example, [B, choices, T]."""
    return any(kind.of_choices and type(model).__name__.endswith(kind.class_suffixes) for kind in OBJECTIVES.values())
