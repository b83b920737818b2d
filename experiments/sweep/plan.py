"""Which cells a grid has, in which order, which of them are finished, and how long the others take."""

import itertools
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Literal

import yaml

from experiments.cell.identity import folder_of, identity_of
from experiments.config.cell import CellConfig, cell_config
from experiments.config.composing import CONF, compose_cell
from experiments.config.mistakes import Collected
from experiments.store import results
from experiments.store.record import Record
from kprune.errors import UserError
from kprune.target import OPTIONS

TOKENS_PER_EXAMPLE = 50
"""Tokens of an example, if the task has no average length."""
SECONDS_PER_TOKEN = 0.004
"""Of K-prune on MiniLM-L6 on two CPU cores, by the size of the encoder for others: the rule if nothing is measured."""
EVALUATION_TOKENS_PER_SECOND = 9000
SIZE = {"minilm": 1, "distilbert": 4, "bert_base": 8, "roberta_base": 8, "electra_base": 8, "mpnet_base": 8}
"""Encoder parameters against MiniLM-L6's."""
EVALUATION_TOKENS = {
    "mrpc": 22e3,
    "stsb": 47e3,
    "stsb_embeddings": 47e3,
    "sst2": 22e3,
    "rte": 18e3,
    "cola": 12e3,
    "qnli": 280e3,
    "mnli": 380e3,
    "qqp": 1.2e6,
    "squad": 1.9e6,
    "squad_v2": 2.2e6,
    "docstrings": 40e3,
}
LATENCY_SECONDS = 8
AXES = {
    "model": "--models",
    "task": "--tasks",
    "method": "--methods",
    "seed": "--seeds",
    "outputs": "--outputs",
}
"""What a grid sets for each of its cells beside the share that its budget removes, and the option that changes it."""


@dataclass(frozen=True)
class Grid:
    """Data of conf/grid/<name>.yaml: a cell for each model, task, seed, method, variant and reduction.

    Attributes:
        variants: lists of overrides.
        rules: overrides (`settings`) of some `methods`, on some `tasks` where these are given.
        settings: overrides of every cell. If several set the same option, the variant's value counts; else the command line's, else
            `settings`', else the rules'.
        budget: what `reductions` are shares of: "flops" or "parameters". A cell whose overrides ask for another budget, or
            for a sparsity, has no share of it.
    """

    models: Sequence[str]
    tasks: Sequence[str]
    methods: Sequence[str]
    reductions: Sequence[float]
    seeds: Sequence[int]
    variants: Sequence[Sequence[str]] = ((),)
    rules: Sequence[dict[str, Sequence[str]]] = ()
    settings: Sequence[str] = ()
    budget: Literal["flops", "parameters"] = "flops"

    @classmethod
    def read(cls, name: str, small: bool, **changes) -> "Grid":
        """Return the grid of a name, its small version if asked for, with what differs from it.

        Raises:
            UserError: there is no such grid, model, task or method, or no small version of it.
        """
        known = {file.stem: file for file in sorted((CONF / "grid").glob("*.yaml"))}
        if name not in known:
            raise UserError(f"grid '{name}' is unknown: use one of {', '.join(known)}")
        content = yaml.safe_load(known[name].read_text())
        smaller = content.pop("small", None)
        if small and smaller is None:
            raise UserError(
                f"grid '{name}' has no small version: leave --small (SMALL=1), or narrow it by --models, --tasks, --methods"
            )
        grid = replace(cls(**(content | (smaller if small else {}))), **changes)
        for room in ("model", "task", "method"):
            names = sorted(file.stem for file in (CONF / room).glob("*.yaml"))
            for entry in getattr(grid, f"{room}s"):
                if entry not in names:
                    raise UserError(f"{room} '{entry}' is unknown: use {', '.join(names)}")
        return grid

    def settings_of(self, method: str, task: str) -> list[str]:
        """Return the overrides of a method's cells on a task."""
        ruled = [
            rule["settings"] for rule in self.rules if method in rule["methods"] and task in rule.get("tasks", [task])
        ]
        return merged([f"budget={self.budget}"] if self.budget != "flops" else [], *ruled, self.settings)


@dataclass(frozen=True)
class Cell:
    """One cell: what `run_cell` takes, and where its record goes."""

    config: CellConfig
    folder: Path
    command: str

    @property
    def name(self) -> str:
        return "/".join(self.folder.parts[-5:])

    @property
    def kind(self) -> tuple[str, str, str]:
        """Return task, model, and method with its variant, as folders."""
        return self.folder.parts[-5:-2]


@dataclass
class Plan:
    """The cells of a grid, in order: those of one model, task and seed are neighbours, so that they share what they can.

    Attributes:
        finished: records of those whose result stands.
        open: the others.
    """

    open: list[Cell] = field(default_factory=list)
    finished: list[tuple[Cell, Record]] = field(default_factory=list)


def cells_of(grid: Grid, outputs: str, overrides: Sequence[str] = ()) -> list[Cell]:
    """Return every cell of a grid; `overrides` are the command line's (see `Grid.settings`).

    Raises:
        UserError: an override is wrong, or one of what the grid sets itself; or settings of cells are, or two cells differ in what no
            folder's name tells, a line each.
    """
    for override in overrides:
        name = override.partition("=")[0].lstrip("+~")
        if option := (AXES | {OPTIONS[grid.budget]: "--reductions"}).get(name):
            raise UserError(f"{override}: a grid sets {name} for each cell: give {option} in its place")
        if name == "evaluate":
            raise UserError(
                f"{override} would be ignored, since a grid prunes: score the model by python run.py {override}"
            )
    cells, found = {}, Collected()
    for model, task in itertools.product(grid.models, grid.tasks):
        given = [
            [
                f"model={model}",
                f"task={task}",
                f"method={method}",
                *merged(grid.settings_of(method, task), overrides, variant),
            ]
            for method in grid.methods
            for variant in grid.variants
        ]
        composed = [(each, *compose_cell([*each, f"outputs={outputs}"])) for each in given]
        for seed, (each, settings, defaults), reduction in itertools.product(grid.seeds, composed, grid.reductions):
            axes = {"seed": seed}
            # Another budget's amount, or a sparsity, is an override, the same for all cells.
            if settings.get("budget") == grid.budget and settings.get("sparsity") is None:
                axes[OPTIONS[grid.budget]] = reduction
            with found.catching():
                config = cell_config(settings | axes, defaults, sweep=True)
                said = [f"{name}={value}" for name, value in reversed(axes.items())]
                cell = Cell(config, folder_of(config), shlex.join(["python", "run.py", *each, *said]))
                there = cells.setdefault(cell.folder, cell)
                if there.config != config:
                    raise UserError(
                        f"'{there.command}' and '{cell.command}' would have one folder, {cell.folder}: give them --outputs of their own, "
                        "or leave one out"
                    )
    found.tell()
    return list(cells.values())


def merged(*overrides: Sequence[str]) -> list[str]:
    """Return one override per name, the last."""
    return list({entry.partition("=")[0]: entry for entry in itertools.chain(*overrides)}.values())


def plan_of(cells: Sequence[Cell]) -> Plan:
    """Return what is left to do."""
    plan = Plan()
    for cell in cells:
        try:
            record = results.finished(cell.folder, identity_of(cell.config))
        except UserError:  # another configuration's record is there: `run_cell` says so of this cell alone
            record = None
        if record is None or cell.config.force:
            plan.open.append(cell)
        else:
            plan.finished.append((cell, record))
    return plan


def estimate(plan: Plan) -> list[float | None]:
    """Return seconds of each open cell: the mean of the finished ones most like it, else by the rule; None if none is known."""
    measured = defaultdict(list)
    for cell, record in plan.finished:
        if "cell_seconds" in record.details:
            task, model, variant = cell.kind
            for key in ((task, model, variant), (task, model, variant.split("+")[0])):
                measured[key].append(record.details["cell_seconds"])
    seconds = []
    for cell in plan.open:
        task, model, variant = cell.kind
        like = measured.get((task, model, variant)) or measured.get((task, model, variant.split("+")[0]))
        seconds.append(mean(like) if like else by_rule(cell.config))
    return seconds


def by_rule(config: CellConfig) -> float | None:
    """Return the seconds on two CPU cores; None for a method that trains: a finished cell alone tells how long that takes."""
    if config.method.trains:
        return None
    size = SIZE.get(config.model.name, max(SIZE.values()))
    evaluation = EVALUATION_TOKENS.get(config.task.name, 1e5) / EVALUATION_TOKENS_PER_SECOND
    tokens = config.calibration.tokens
    if config.calibration.examples:
        tokens = config.calibration.examples * (config.task.average_length or TOKENS_PER_EXAMPLE)
    pruning = tokens * SECONDS_PER_TOKEN
    return size * (pruning + evaluation + LATENCY_SECONDS)
