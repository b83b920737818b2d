"""The cells of a grid in the order in which they are run, which of them are finished, and how long the other cells take."""

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
"""Assumed number of tokens in an example, if the task has no average length."""
SECONDS_PER_TOKEN = 0.004
"""Seconds that K-prune on MiniLM-L6 takes for a calibration token on two CPU cores; `by_rule` scales it with the model's size."""
EVALUATION_TOKENS_PER_SECOND = 9000
SIZE = {"minilm": 1, "distilbert": 4, "bert_base": 8, "roberta_base": 8, "electra_base": 8, "mpnet_base": 8}
"""The number of an encoder's parameters divided by that of MiniLM-L6."""
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
"""Settings that a grid sets for each of its cells, beside the share to remove, and the option of the command line for each."""


@dataclass(frozen=True)
class Grid:
    """The content of conf/grid/<name>.yaml: there is a cell for each model, task, seed, method, variant and reduction.

    If several overrides of a cell set the same option, the variant's value is used, else the command line's, else that of
    `settings`, else that of the last rule.

    Attributes:
        variants: lists of overrides; each list makes a variant.
        rules: overrides (`settings`) for cells of certain `methods`, and if `tasks` are given only on these tasks.
        settings: overrides of every cell.
        budget: the amount that `reductions` are shares of: "flops" or "parameters". A cell whose overrides ask for another budget or
            for a sparsity does not use `reductions`.
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
        """Return a grid of conf/grid.

        Args:
            name: the name of its file.
            small: whether to return its small version.
            changes: values of attributes that replace the grid's own.

        Raises:
            UserError: the grid, a model, a task or a method does not exist, or the grid has no small version.
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
        """Return the overrides of the cells of a method on a task, from the budget, the rules and `settings`."""
        ruled = [
            rule["settings"] for rule in self.rules if method in rule["methods"] and task in rule.get("tasks", [task])
        ]
        return merged([f"budget={self.budget}"] if self.budget != "flops" else [], *ruled, self.settings)


@dataclass(frozen=True)
class Cell:
    """One cell: its config, the folder of its record, and the command that runs it alone."""

    config: CellConfig
    folder: Path
    command: str

    @property
    def name(self) -> str:
        return "/".join(self.folder.parts[-5:])

    @property
    def kind(self) -> tuple[str, str, str]:
        """Return the names of the folders of the task, the model, and the method with its variant."""
        return self.folder.parts[-5:-2]


@dataclass
class Plan:
    """The cells of a grid; cells of one model, task and seed are neighbours, so that they share data and measurements.

    Attributes:
        open: the cells to run.
        finished: the cells that have a result, with their records.
    """

    open: list[Cell] = field(default_factory=list)
    finished: list[tuple[Cell, Record]] = field(default_factory=list)


def cells_of(grid: Grid, outputs: str, overrides: Sequence[str] = ()) -> list[Cell]:
    """Return every cell of a grid.

    Args:
        grid: the grid.
        outputs: the folder of all results.
        overrides: the overrides of the command line; `Grid` says which override is used.

    Raises:
        UserError: an override is wrong or sets what the grid sets itself, settings of cells are wrong, or two different cells would
            have the same folder; the message has a line for each wrong cell.
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
            # With another budget or a sparsity, its amount is an override and the same for all cells.
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
    """Return the last override of each name."""
    return list({entry.partition("=")[0]: entry for entry in itertools.chain(*overrides)}.values())


def plan_of(cells: Sequence[Cell]) -> Plan:
    """Split cells into finished ones and cells to run; with `force`, every cell is to run."""
    plan = Plan()
    for cell in cells:
        try:
            record = results.finished(cell.folder, identity_of(cell.config))
        except UserError:  # the folder has a record of another configuration: `run_cell` fails for this cell only
            record = None
        if record is None or cell.config.force:
            plan.open.append(cell)
        else:
            plan.finished.append((cell, record))
    return plan


def estimate(plan: Plan) -> list[float | None]:
    """Return the expected seconds of each open cell; None if they are not known.

    They are the mean over the finished cells of the same task, model, method and variant; without any, over those of the same task,
    model and method; without any, the result of `by_rule`.
    """
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
    """Return the expected seconds of a cell on two CPU cores; None for a method that trains, whose time no rule can tell."""
    if config.method.trains:
        return None
    size = SIZE.get(config.model.name, max(SIZE.values()))
    evaluation = EVALUATION_TOKENS.get(config.task.name, 1e5) / EVALUATION_TOKENS_PER_SECOND
    tokens = config.calibration.tokens
    if config.calibration.examples:
        tokens = config.calibration.examples * (config.task.average_length or TOKENS_PER_EXAMPLE)
    pruning = tokens * SECONDS_PER_TOKEN
    return size * (pruning + evaluation + LATENCY_SECONDS)
