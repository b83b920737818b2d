"""A pruned model compared with its dense one: distance, size, speed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from kprune.budgets.latency import STANDARD, measure_latency
from kprune.checkpoint.card import auto_class_of
from kprune.checks import check_finite, check_padding, reads_padding
from kprune.cli.folders import Checkpoint
from kprune.data import CalibrationSet, Example
from kprune.errors import UserError
from kprune.models.inputs import longest_input, model_inputs, needs_token_types, on_device, padding_of
from kprune.objectives import (
    CausalLM,
    Classification,
    Embedding,
    MaskedLM,
    MultipleChoice,
    Objective,
    Regression,
    Span,
    TokenClassification,
    objective_of,
)

OF_TOKENS = {
    CausalLM: "likeliest next token",
    MaskedLM: "likeliest masked token",
    TokenClassification: "class of a token",
}
"""Heads that answer for tokens, and what they predict."""
CHOSEN = {Classification: "predicted class", MultipleChoice: "predicted choice"}
"""Heads that answer once for a text, and what they predict."""
TOKENS = 1024
"""Tokens of a batch. Few: a language model has logits of them all, as wide as its vocabulary."""
ROWS = 32
"""Texts of a batch, if two tokenizers split them."""
MEGA = 1_000_000


@dataclass(frozen=True)
class Distance:
    """How far a pruned model's predictions are from the dense one's.

    Attributes:
        divergence: mean divergence, in `unit`.
        same: share of predictions that are the same; None if the head does not choose among classes.
        prediction: what the head predicts, in words.
        texts, tokens: numbers of texts and of tokens compared.
    """

    divergence: float
    unit: str
    same: float | None
    prediction: str
    texts: int
    tokens: int

    def sentence(self, texts: str = "texts") -> str:
        """Return the distance in words, the examples called `texts`."""
        same = "" if self.same is None else f"; the {self.prediction} is the same for {100 * self.same:.1f} %"
        return (
            f"divergence from the dense model: {self.divergence:.4g} {self.unit}, mean over {self.texts:,} {texts} "
            f"({self.tokens:,} tokens){same}"
        )


def objective_for(model: PreTrainedModel, task: str | None) -> Objective:
    """Return what a model's head does: as named, else as its class and config say.

    Raises:
        UserError: the name is unknown or does not suit the model, or the head is of no kind that kprune can compare.
    """
    try:
        return objective_of(model, task)
    except UserError as error:
        raise UserError(str(error).replace(f"task '{task}'", f"--task {task}", 1)) from error


def answers_once(objective: Objective) -> bool:
    """Tell whether a head answers once for a text, whatever its tokens are."""
    return not isinstance(objective, (*OF_TOKENS, Span))


def check_alike(dense: PreTrainedModel, pruned: PreTrainedModel, objective: Objective, task: str | None = None) -> None:
    """Check that two models predict the same thing of the same texts.

    Args:
        task: as it was given to `objective_for`.

    Raises:
        UserError: the models differ in their heads, outputs, token types or the order of their classes; in their vocabularies, if the
            head answers for tokens; in their padding tokens, if the head finds the last token by it and the vocabularies are the
            same; or a weight is not finite.
    """
    kinds = [auto_class_of(model) for model in (dense, pruned)]
    if kinds[0] != kinds[1]:
        raise UserError(f"one is an {kinds[0]}, the other an {kinds[1]}: compare two of one kind")
    theirs = objective_for(pruned, task)
    if objective.name != theirs.name:
        raise UserError(
            f"the first model's task is {objective.name}, the second's {theirs.name}: compare two of one kind"
        )
    entries = ["num_labels", *([] if answers_once(objective) else ["vocab_size"])]
    entries += ["hidden_size"] if isinstance(objective, Embedding) else []
    entries += ["type_vocab_size"] if needs_token_types(dense) else []
    if reads_padding(dense, objective):
        check_padding(dense, objective)
        check_padding(pruned, objective)
        if dense.config.vocab_size == pruned.config.vocab_size:
            entries.append("pad_token_id")
    for entry in entries:
        before, after = (getattr(model.config, entry, None) for model in (dense, pruned))
        if before != after:
            raise UserError(f"the first model's {entry} is {before}, the second's {after}: compare two of one origin")
    first, second = ([name for _, name in sorted((model.config.id2label or {}).items())] for model in (dense, pruned))
    if first != second and set(first) == set(second):
        place = next(place for place, name in enumerate(first) if name != second[place])
        raise UserError(
            f"class {place} is {first[place]} in the first model and {second[place]} in the second: compare two with classes in "
            "one order"
        )
    check_finite(dense, "the first model")
    check_finite(pruned, "the second model")


@torch.inference_mode()
def distance(
    dense: PreTrainedModel,
    pruned: PreTrainedModel,
    objective: Objective,
    examples: Sequence[Example],
    theirs: Sequence[Example] | None = None,
) -> Distance:
    """Run both models on examples and compare what they predict.

    Args:
        theirs: the same texts in the tokens of the pruned model's tokenizer; None if it is the dense model's. Only for a head that
            `answers_once`.
    """
    data = CalibrationSet(examples, len(examples), padding_of(dense))
    divergence, same, asked = 0.0, 0, 0
    ours = data.steps(TOKENS) if theirs is None else CalibrationSet(examples, ROWS, padding_of(dense)).batches(False)
    others = ours if theirs is None else CalibrationSet(theirs, ROWS, padding_of(pruned)).batches(False)
    pairs = zip(ours, others, strict=True)
    for pair in tqdm(pairs, desc="comparing", unit="batch", total=len(ours), disable=None):
        batch, other = (on_device(batch, dense.device) for batch in pair)
        teacher = objective.answers(dense(**model_inputs(batch)), batch)
        student = objective.answers(pruned(**model_inputs(other)), other)
        divergence += objective.divergence(student, teacher, 1.0).sum().item()
        if isinstance(objective, (*CHOSEN, *OF_TOKENS)):
            agree = student.argmax(dim=-1) == teacher.argmax(dim=-1)
            answered = objective.answered(batch) if isinstance(objective, tuple(OF_TOKENS)) else torch.ones_like(agree)
            same, asked = same + int(agree[answered].sum()), asked + int(answered.sum())
    texts, tokens = len(examples), data.tokens
    for kind, prediction in OF_TOKENS.items():
        if isinstance(objective, kind):
            unit = f"nats a {'masked ' if objective.reads_labels else ''}token (KL)"
            return Distance(divergence / asked, unit, same / asked, prediction, texts, tokens)
    for kind, prediction in CHOSEN.items():
        if isinstance(objective, kind):
            return Distance(divergence / texts, "nats (KL)", same / texts, prediction, texts, tokens)
    unit = "squared difference" if isinstance(objective, (Regression, Embedding)) else "nats (KL)"
    return Distance(divergence / texts, unit, None, "", texts, tokens)


def latency(dense: PreTrainedModel, pruned: PreTrainedModel) -> dict[str, Any]:
    """Measure forward passes of both models in turn, at batch 32 and length 128 or the longest that both read."""
    length = min(STANDARD.sequence_length, longest_input(dense), longest_input(pruned))
    return measure_latency(dense, pruned, STANDARD.batch_size, length)


Line = tuple[str, str, str, str]


def size_and_speed(
    dense: PreTrainedModel,
    pruned: PreTrainedModel,
    checkpoints: tuple[Checkpoint, Checkpoint],
    time: dict[str, Any] | None,
) -> list[Line]:
    """Return the lines of a table: parameters, megabytes and, if they were measured, milliseconds of both models."""
    parameters = [sum(weight.numel() for weight in model.parameters()) for model in (dense, pruned)]
    size = [checkpoint.bytes for checkpoint in checkpoints]
    lines = [
        ("parameters", f"{parameters[0]:,}", f"{parameters[1]:,}", fewer(*parameters)),
        ("megabytes on disk", f"{size[0] / MEGA:.1f}", f"{size[1] / MEGA:.1f}", fewer(*size)),
    ]
    if time is None:
        return lines
    slowest, fastest = time["speedup_range"]
    threads = f"{time['threads']} thread{'' if time['threads'] == 1 else 's'} of "
    device = time["device"] if dense.device.type == "cuda" else threads + time["device"]
    return [
        *lines,
        (
            "ms a forward pass",
            f"{time['dense_ms']:.1f}",
            f"{time['pruned_ms']:.1f}",
            f"{time['speedup']:.2f}x as fast ({slowest:.2f}x to {fastest:.2f}x), {time['batch_size']} texts of "
            f"{time['sequence_length']} tokens, {device}",
        ),
    ]


def fewer(before: float, after: float) -> str:
    """Return how much less the second number is, in percent of the first."""
    change = 100 * (1 - after / before) if before else 0.0
    return f"{change:.1f} % less" if change >= 0 else f"{-change:.1f} % more"


def table(lines: Sequence[Line]) -> str:
    """Return lines below the header "dense pruned", numbers aligned."""
    lines = [("", "dense", "pruned", ""), *lines]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {dense:>{widths[1]}}  {pruned:>{widths[2]}}  {note}".rstrip()
        for name, dense, pruned, note in lines
    )
