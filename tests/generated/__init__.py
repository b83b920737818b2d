"""Cases of a user's own model and batches, drawn from the cross product of what users bring, and what must become of each.

Every dimension has options that end in a right result and options that are refused. A case takes one option of each dimension,
and at most one that is refused. Options are dealt like cards, so 120 cases see nearly all.
"""

import contextlib
import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from families import EAGER_ALONE, TOKENS
from tiny import SHAPE
from transformers import AutoConfig

import kprune
from generated.batches import BATCHES
from generated.changes import CHANGES, SETTINGS
from generated.option import Option, options
from generated.shapes import FAMILIES, HEADS, REFUSED_HEADS, VARIANTS


def save_dense(outcome: Any, folder: Path) -> Any:
    stock = type(outcome.model).__mro__[2] if type(outcome.model).__name__.startswith("Pruned") else type(outcome.model)
    return stock.from_pretrained(outcome.save(folder, format="dense"), dtype="float32")


def save_plain(outcome: Any, folder: Path) -> Any:
    outcome.model.save_pretrained(folder)
    return kprune.load(folder)


@contextlib.contextmanager
def default_dtype() -> Any:
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def coarse() -> Any:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


CALL: dict[str, tuple[Option, ...]] = {
    "ask": options(
        Option("", {"flops_reduction": 0.5}),
        Option("0.3", {"flops_reduction": 0.3}),
        Option("0.9", {"flops_reduction": 0.9}),
        Option("parameters", {"params_reduction": 0.4}),
    ),
    "method": options(
        Option("magnitude", False),
        Option("random", False),
        Option("magnitude", False),
        Option("random", False),
        Option("kprune", True),
        Option("kprune_plus", True),
        Option("kprune_fast", True),
        Option("kprune_plus_fast", True),
    ),
    "saved": options(
        Option("", lambda outcome, folder: kprune.load(outcome.save(folder))),
        Option("saved dense", save_dense),
        Option("saved by transformers", save_plain),
    ),
    "around": options(
        Option("", None),
        Option("no_grad", torch.no_grad),
        Option("inference_mode", torch.inference_mode),
        Option("autocast", lambda: torch.autocast("cpu", torch.bfloat16)),
        Option("default dtype", default_dtype),
        Option("coarse products", coarse),
        Option("anomalies", torch.autograd.detect_anomaly),
        Option("deterministic", deterministic),
        Option("default device", lambda: torch.device("meta")),
    ),
}
"""How they are pruned."""
DIMENSIONS = SETTINGS | CHANGES | BATCHES | CALL


@dataclass(frozen=True)
class Case:
    """A model, batches, and how they are pruned; `options` by dimension."""

    seed: int
    family: str
    variant: Mapping[str, Any]
    head: str
    options: Mapping[str, Option]

    @property
    def name(self) -> str:
        return ", ".join(
            [
                str(self.seed),
                self.family,
                *(f"{n}={v}" for n, v in self.variant.items()),
                self.head,
                *(o.name for o in self.options.values() if o.name),
            ]
        )

    @property
    def auto_class(self) -> str:
        return (HEADS | REFUSED_HEADS)[self.head][0]

    @property
    def refused(self) -> str | None:
        if self.head in REFUSED_HEADS:
            return "has no labels|a model of multiple choice reads"
        return next((option.refused for option in self.options.values() if option.refused), None)

    @property
    def may(self) -> str | None:
        return "|".join(option.may for option in self.options.values() if option.may)

    def model(self) -> Any:
        settings = (
            SHAPE | {"num_hidden_layers": 2} | TOKENS | FAMILIES[self.family] | (HEADS | REFUSED_HEADS)[self.head][1]
        )
        settings |= self.variant
        if self.family == "distilbert":
            del settings["intermediate_size"], settings["num_hidden_layers"]
        torch.manual_seed(self.seed)
        config = AutoConfig.for_model(self.family, **settings)
        self.options["setting"].apply(config)
        attention = "eager" if self.family in EAGER_ALONE else self.options["attention"].name
        model = getattr(transformers, self.auto_class).from_config(config, attn_implementation=attention)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases at their initial values hide what they do
                parameter.data.add_(0.3 * torch.randn_like(parameter))
        for dimension in CHANGES:
            changed = self.options[dimension].apply(model)
            model = model if changed is None else changed
        return model

    def batches(self, vocabulary: int, token_types: int) -> Any:
        """Return what is given as `batches`, and the plain list of dicts of tensors that it is."""
        generator = torch.Generator().manual_seed(self.seed)
        plain = []
        for size in (3, 4, 1 + self.seed % 3):  # ragged
            # Little padding: beyond a local attention's window, transformers' own eager attention gives NaN.
            lengths = torch.randint(7, 11, (size,), generator=generator)
            places = torch.arange(int(lengths.max()))
            mask = (places < lengths[:, None]).long()
            ids = torch.randint(5, vocabulary, mask.shape, generator=generator)
            batch = {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}
            if token_types:
                types = torch.randint(token_types, mask.shape, generator=generator)
                batch["token_type_ids"] = types * mask
            plain.append(batch)
        for dimension in BATCHES:
            plain = self.options[dimension].apply(plain)
        return plain


def cases(count: int, first: int = 0) -> list[Case]:
    """Return cases number `first` up; half of them have an option that is refused."""
    deals: dict[Any, Any] = {}

    def deal(key: Any, cards: Any) -> Any:
        """Return the next card of a deck that is shuffled each time it is used up."""
        if key not in deals:
            generator = random.Random(f"{first} {key}")
            deals[key] = itertools.chain.from_iterable(
                generator.sample(list(cards), len(cards)) for _ in itertools.count()
            )
        return next(deals[key])

    refused = [(name, option) for name, all_of in DIMENSIONS.items() for option in all_of if option.refused]
    refused += [("head", head) for head in REFUSED_HEADS]
    found: list[Case] = []
    while len(found) < count:
        family, head = deal("family", FAMILIES), deal("head", HEADS)
        variant = deal(("variant", family), ({}, *VARIANTS.get(family, ())))
        chosen = {name: deal(name, [o for o in all_of if not o.refused]) for name, all_of in DIMENSIONS.items()}
        if len(found) % 2:
            dimension, option = deal("refused", refused)
            if dimension == "head":
                head = option
            else:
                chosen[dimension] = option
        case = Case(first + len(found), family, variant, head, chosen)
        auto, config = getattr(transformers, case.auto_class), transformers.CONFIG_MAPPING[family]
        fits = all(option.fits(family, case.auto_class) for option in chosen.values())
        if fits and config in auto._model_mapping.keys():
            found.append(case)
    return found
