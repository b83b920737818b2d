"""Which pruning method a config names."""

from collections.abc import Callable
from functools import partial
from typing import Any

from baselines.kcm import KCM
from baselines.kwon import Kwon
from baselines.magnitude import Magnitude
from baselines.random import Random
from baselines.retrained.cofi import CoFi
from baselines.retrained.dynabert import DynaBERT
from baselines.retrained.ebert import EBERT
from baselines.retrained.finetuned import FineTuned
from experiments.config.composing import compose_cell
from kprune.contract import Pruner
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.kprune.knowledge import KnowledgeSettings
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.training import Recipe


def _kprune(knowledge: dict, lambdas: list[float], **settings) -> KPrune:
    return KPrune(knowledge=KnowledgeSettings(**knowledge), lambdas=tuple(lambdas), **settings)


def _retrained(method: Callable[..., Pruner], recipe: dict, **settings) -> Pruner:
    lists = {key: tuple(value) for key, value in settings.items() if isinstance(value, list)}
    return method(recipe=Recipe(**recipe), **settings | lists)


METHODS: dict[str, Callable[..., Pruner]] = {
    "kprune": _kprune,
    "kprune_official": _kprune,
    "kprune_fast": _kprune,
    "kprune_plus": KPrunePlus,
    "kprune_plus_fast": KPrunePlus,
    "kwon": Kwon,
    "kcm": KCM,
    "magnitude": Magnitude,
    "random": Random,
    "kprune_finetuned": partial(_retrained, partial(FineTuned, KPrune())),
    "dynabert_w": partial(_retrained, DynaBERT),
    "dynabert_d": partial(_retrained, DynaBERT),
    "ebert": partial(_retrained, EBERT),
    "cofi": partial(_retrained, CoFi),
}


def build_method(settings: dict[str, Any]) -> Pruner:
    """The method of conf/method/<name>.yaml, from its plain settings.

    Raises:
        UserError: the method or one of its settings is unknown.
    """
    name = settings["name"]
    if name not in METHODS:
        raise UserError(f"method '{name}' is unknown: use one of {', '.join(METHODS)}")
    try:
        return METHODS[name](**settings)
    except TypeError as error:
        raise UserError(f"method {name}: {error}: see conf/method/{name}.yaml for its settings") from error


def method_with(text: str) -> Pruner:
    """`kwon` as conf/method/kwon.yaml has it; `kprune:measure_every=4` with settings changed.

    Raises:
        UserError: the method or a setting is unknown.
    """
    name, *settings = text.split(":")
    config, _ = compose_cell([f"method={name}", *(f"method.{setting}" for setting in settings)])
    return build_method(config["method"])
