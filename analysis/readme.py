"""Rewrite the README's tables from the committed cells: `python -m analysis.readme`; `--check` only compares.

A table stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`; the names are those of `NAMES` and `FILES`.
"""

import argparse
import re
import sys
from functools import partial
from pathlib import Path

import pandas as pd

from analysis.aggregate import aggregate, settings
from analysis.records import command, load, read_csv
from analysis.render import render
from analysis.tables import TABLES, notes
from analysis.tables.accuracy import compared
from analysis.tables.measured import bench, held_out, latency_grid
from kprune.errors import UserError
from kprune.files import write_text

STAGES = ("first", "final", "parts", "candidates", "head", "prior", "share", "refit", "oracle", "lambda", "fast")
EMBEDDED = "docstrings"
STUDIES = {
    "ablation": ("studies.csv", "ablation"),
    "sensitivity": ("studies.csv", "sensitivity"),
    "latency-budget": ("latency_budget.csv", "measurements"),
    "few-tokens": ("few_tokens.csv", "accuracy"),
    "retrained-gpu": ("gpu.csv", "retrained"),
}
"""Tables of cells in files of their own, beside which the main comparison would drown: a file and a table."""
NAMES = (
    {name: name for name in TABLES} | {"demo": "measurements"} | {name: table for name, (_, table) in STUDIES.items()}
)
"""A marker's name to a table's; `demo` is the embedded task's, all others leave that out."""
FILES = {
    "bench": ("bench.csv", bench),
    "latency-grid": ("latency.csv", latency_grid),
    "latency-grid-gpu": ("latency_gpu.csv", latency_grid),
    "latency-goal-gpu": (
        "latency_gpu.csv",
        lambda rows: latency_grid(rows.query("batch_size == 32 and sequence_length == 128")),
    ),
} | {f"held-out-{stage}": ("held_out.csv", partial(held_out, stage=stage)) for stage in STAGES}
"""Tables of files beside the cells': what `make bench`, `make latency` and experiments.scoring.held_out write."""
TIMED = ("cost", "measurements", "speedup")
COMPARED = ("cost", "speedup")
"""Tables of the main comparison's cells alone, among `TIMED`."""
MARKED = re.compile(r"<!-- table:(?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- /table:(?P=name) -->", re.DOTALL)
OPENING = re.compile(r"<!-- table:([\w-]+) -->")


def marked(name: str, cells: pd.DataFrame) -> str:
    """Return a table in Markdown, without the embedded task; with the machine and the seeds of its cells if it has times."""
    embedded = cells["task"] == EMBEDDED
    chosen = cells[embedded] if name == "demo" else cells[~embedded]
    if chosen.empty:
        return ""
    shown = TABLES[NAMES[name]].make(aggregate(chosen))
    if shown.empty:
        return ""
    if name in COMPARED:
        chosen = chosen[compared(chosen.assign(settings=settings))]
    return render(shown, "markdown") + (f"\n{notes(chosen)}\n" if NAMES[name] in TIMED else "")


def of_studies(name: str, folder: Path) -> str:
    """Return a table of `STUDIES` in Markdown; empty if their file is not there."""
    file = folder / STUDIES[name][0]
    return marked(name, load(file)) if file.is_file() else ""


def of_file(name: str, folder: Path) -> str:
    """Return a table of `FILES` in Markdown, and the machine of what has times; empty if its file is not there."""
    file, make = FILES[name]
    if not (folder / file).is_file():
        return ""
    rows = read_csv(folder / file)
    shown = render(make(rows), "markdown")
    if "device" not in rows:
        return shown
    machines = rows[["device", "threads", "torch"]].drop_duplicates().itertuples(index=False)
    precision = " and ".join(rows["dtype"].unique()) if "dtype" in rows else "float32"
    note = "; ".join(f"{device}, {threads} threads, torch {torch}, {precision}" for device, threads, torch in machines)
    return f"{shown}\n{note}.\n"


def rewrite(text: str, cells: pd.DataFrame, folder: Path) -> str:
    """Return the README's text with every marked table made anew; a table without a cell is left empty.

    Args:
        folder: where the files of `FILES` and `STUDIES` are.

    Raises:
        UserError: a marker names no known table, or is not closed.
    """

    def table(match: re.Match) -> str:
        name = match["name"]
        if name in FILES:
            body = of_file(name, folder)
        elif name in STUDIES:
            body = of_studies(name, folder)
        else:
            body = marked(name, cells)
        return f"<!-- table:{name} -->\n{body}<!-- /table:{name} -->"

    closed = [match["name"] for match in MARKED.finditer(text)]
    for name in OPENING.findall(text):
        if name not in NAMES | FILES:
            raise UserError(f"the README marks a table '{name}': use one of {', '.join(NAMES | FILES)}")
        if name not in closed:
            raise UserError(f"the README does not close its table '{name}': add <!-- /table:{name} -->")
    return MARKED.sub(table, text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, default=Path("results/cells.csv"), help="CSV file of analysis.collect")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the README is stale")
    arguments = parser.parse_args()
    cells = load(arguments.cells)
    if not arguments.readme.is_file():
        raise UserError(f"{arguments.readme} does not exist: give --readme FILE")
    text = arguments.readme.read_text()
    rewritten = rewrite(text, cells, arguments.cells.parent)
    if arguments.check:
        if text != rewritten:
            print(f"{arguments.readme} is not what {arguments.cells} makes of it: run python -m analysis.readme")
            sys.exit(1)
        return
    write_text(arguments.readme, rewritten)
    print(f"{arguments.readme}: tables made from {len(cells)} cells of {arguments.cells}")


if __name__ == "__main__":
    sys.exit(command(main))
