"""Rewrite the tables and numbers of the README and docs/ from the committed results: `python -m analysis.readme [PAGE ...]`.

A table stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`; the names are those of `NAMES` and `FILES`. A number in
prose stands between `<!-- number:NAME ARGUMENTS -->` and `<!-- /number -->`; see `analysis.numbers`. `--check` writes nothing.
"""

import argparse
import re
import sys
from functools import partial
from pathlib import Path

import pandas as pd

from analysis.aggregate import aggregate, settings
from analysis.numbers import Numbers, number_asked
from analysis.records import load, read_csv
from analysis.render import render
from analysis.tables import TABLES, notes, versions
from analysis.tables.accuracy import compared
from analysis.tables.beside_cells import (
    bench,
    costs,
    decoder_curves,
    decoder_steps,
    decoder_trials,
    decoder_units,
    embedding_roots,
    held_out,
    latency_grid,
    low_rank_embeddings,
    other_texts,
    pruned_first,
    zeros_time,
)
from analysis.tables.served import served
from kprune.errors import UserError, command, one_line
from kprune.files import reachable, write_text

STAGES = (
    "first",
    "final",
    "parts",
    "candidates",
    "head",
    "prior",
    "share",
    "refit",
    "oracle",
    "recombined",
    "lambda",
    "fast",
    "search",
    "precision",
    "steps",
)
EMBEDDED = "docstrings"
STUDIES = {
    "shares-loss": ("shares.csv", "loss"),
    "shares": ("shares.csv", "accuracy"),
    "shares-speedup": ("shares.csv", "speedup"),
    "shares-cost": ("shares.csv", "cost"),
    "shares-trade": ("shares.csv", "trade"),
    "embeddings": ("embeddings.csv", "measurements"),
    "mpnet": ("mpnet.csv", "measurements"),
    "vocabulary": ("vocabulary.csv", "size"),
    "decoders": ("decoders.csv", "perplexity"),
    "decoders-intervals": ("decoders.csv", "perplexity_ratios"),
    "decoders-measured": ("decoders.csv", "measurements"),
    "decoders-speed": ("decoders.csv", "latency"),
    "decoders-repeated": ("decoders_repeated.csv", "perplexity"),
    "decoders-repeated-intervals": ("decoders_repeated.csv", "perplexity_ratios"),
    "decoders-few-texts": ("decoders_few_texts.csv", "perplexity"),
    "decoders-ridge": ("decoders_ridge.csv", "perplexity_ratios"),
    "decoders-ridge-few-texts": ("decoders_ridge_few_texts.csv", "perplexity_ratios"),
    "decoders-zeros": ("decoders_zeros.csv", "perplexity"),
    "decoders-own-texts": ("decoders_own_texts.csv", "perplexity"),
    "decoders-own-texts-intervals": ("decoders_own_texts.csv", "perplexity_ratios"),
    "zeros": ("zeros.csv", "accuracy"),
    "zeros-measured": ("zeros.csv", "measurements"),
    "retrained-cpu": ("retrained.csv", "retrained"),
    "retrained-lead": ("retrained.csv", "lead"),
    "ablation": ("studies.csv", "ablation"),
    "sensitivity": ("studies.csv", "sensitivity"),
    "latency-budget": ("latency_budget.csv", "measurements"),
    "few-tokens": ("few_tokens.csv", "accuracy"),
    "retrained-gpu": ("gpu.csv", "retrained"),
}
"""Markers of tables whose cells are not in the main comparison's CSV file: the file that has them, and the table to make of them.

The main comparison leaves them out because they are too many, or because their evaluation set or version of a method is another.
"""
NAMES = (
    {name: name for name in TABLES} | {"demo": "measurements"} | {name: table for name, (_, table) in STUDIES.items()}
)
"""Markers of tables of cells, and the tables they stand for; `demo` shows the embedded task alone, the other markers leave it out."""
FILES = {
    "bench": ("bench.csv", bench),
    "bench-gpu": ("bench_gpu.csv", costs),
    "bench-reduced": ("bench_reduced.csv", costs),
    "bench-sweep": ("bench_sweep.csv", costs),
    "decoder-steps": ("decoder_steps.csv", decoder_steps),
    "decoder-trials": ("decoder_trials.csv", decoder_trials),
    "decoder-curves": ("decoder_curves.csv", decoder_curves),
    "decoder-units": ("decoder_units.csv", decoder_units),
    "low-rank-embeddings": ("low_rank_embeddings.csv", low_rank_embeddings),
    "other-texts": ("other_texts.csv", other_texts),
    "pruned-first": ("pruned_first.csv", pruned_first),
    "embedding-roots": ("embedding_roots.csv", embedding_roots),
    "zeros-time": ("zeros_time.csv", zeros_time),
    "served": ("served.csv", served),
    "latency-grid": ("latency.csv", latency_grid),
    "latency-grid-gpu": ("latency_gpu.csv", latency_grid),
    "latency-goal-gpu": (
        "latency_gpu.csv",
        lambda rows: latency_grid(rows.query("batch_size == 32 and sequence_length == 128")),
    ),
} | {f"held-out-{stage}": ("held_out.csv", partial(held_out, stage=stage)) for stage in STAGES}
"""Markers of tables that are not made of cells: the CSV file, such as `make bench` writes it, and the function that makes the table."""
TIMED = ("cost", "measurements", "speedup")
"""Tables that show times."""
COMPARED = ("cost", "speedup", "shares-cost", "shares-speedup")
"""Markers of tables with times that show only the rows of `analysis.tables.accuracy.compared`."""
MARKED = re.compile(r"<!-- table:(?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- /table:(?P=name) -->", re.DOTALL)
OPENING = re.compile(r"<!-- table:([\w-]+) -->")
NUMBER = re.compile(r"<!-- number:(?P<call>[^>]+?) -->(?P<body>[^<]*)<!-- /number -->")
NUMBER_OPENING = re.compile(r"<!-- number:([^>]+?) -->")
FIRST_ON_A_LINE = re.compile(r"^[ >*-]*<!-- number:(?P<call>[^>]+?) -->", re.MULTILINE)


def marked(name: str, cells: pd.DataFrame) -> str:
    """Return the table of a marker in Markdown; empty if it has no row.

    Below it stand the notes on its cells (machine, seeds and so on) if it shows times, else the methods that have several versions.

    Args:
        name: a marker of `NAMES`.
        cells: rows of `analysis.records`.

    Raises:
        UserError: as of `analysis.aggregate.aggregate`.
    """
    embedded = cells["task"] == EMBEDDED
    chosen = cells[embedded] if name == "demo" else cells[~embedded]
    if chosen.empty:
        return ""
    shown = TABLES[NAMES[name]].make(aggregate(chosen))
    if shown.empty:
        return ""
    if name in COMPARED:
        chosen = chosen[compared(chosen.assign(settings=settings))]
    note = notes(chosen) if NAMES[name] in TIMED else " ".join(versions(chosen))
    return render(shown, "markdown") + (f"\n{note}\n" if note else "")


def of_studies(name: str, folder: Path) -> str:
    """Return the table of a marker of `STUDIES` in Markdown; empty if its file is not in the folder.

    Raises:
        UserError: the file can't be read, or as of `marked`.
    """
    file = folder / STUDIES[name][0]
    return marked(name, load(file)) if file.is_file() else ""


def of_file(name: str, folder: Path) -> str:
    """Return the table of a marker of `FILES` in Markdown, with the machine below it if the file says it.

    Empty if the file is not in the folder, or has no row for the table.

    Raises:
        UserError: the file can't be read, or lacks a column or a value that the table needs.
    """
    file, make = FILES[name]
    if not (folder / file).is_file():
        return ""
    rows = read_csv(folder / file)
    try:
        table = make(rows)
        machines = rows[["device", "threads", "torch"]].drop_duplicates() if "device" in rows else rows[:0]
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"{folder / file} has no rows that table {name} can be made of ({reason}): restore it"
        ) from error
    if table.empty:
        return ""
    shown = render(table, "markdown")
    if "device" not in rows:
        return shown
    precision = " and ".join(rows["dtype"].unique()) if "dtype" in rows else "float32"
    note = "; ".join(
        f"{device}, {threads} threads, torch {torch}, {precision}"
        for device, threads, torch in machines.itertuples(index=False)
    )
    return f"{shown}\n{note}.\n"


def rewrite(text: str, cells: pd.DataFrame, folder: Path) -> str:
    """Return a page's text with every marked table and number made anew; a table without a cell is left empty.

    Args:
        text: the page.
        cells: rows of `analysis.records` for the main comparison and the embedded task.
        folder: where the files of `FILES` and `STUDIES` are.

    Raises:
        UserError: a marker names no known table or number, is not closed, or is a number's at the beginning of a line; or a
            table or number can't be made.
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

    closed = [match["name"] for match in MARKED.finditer(text)] + [match["call"] for match in NUMBER.finditer(text)]
    for name in OPENING.findall(text):
        if name not in NAMES | FILES:
            raise UserError(f"the page marks a table '{name}': use one of {', '.join(NAMES | FILES)}")
        if name not in closed:
            raise UserError(f"the page does not close its table '{name}': add <!-- /table:{name} -->")
    for call in NUMBER_OPENING.findall(text):
        if call not in closed:
            raise UserError(f"the page does not close its number '{call}': add <!-- /number -->")
    if first := FIRST_ON_A_LINE.search(text):
        raise UserError(
            f"the page begins a line with the number '{first['call']}', and its marker ends a paragraph: put a word before it"
        )
    text = MARKED.sub(table, text)
    if not NUMBER.search(text):
        return text
    numbers = Numbers(cells[cells["task"] != EMBEDDED], folder)
    return NUMBER.sub(
        lambda match: f"<!-- number:{match['call']} -->{number_asked(match['call'], numbers)}<!-- /number -->", text
    )


def pages(root: Path) -> list[Path]:
    """Return the README and every page of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


@command
def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.readme", description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=reachable, help="default: README.md and every page of docs/")
    parser.add_argument(
        "--cells", type=reachable, default=Path("results/cells.csv"), help="CSV file of analysis.collect"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is stale")
    arguments = parser.parse_args()
    cells = load(arguments.cells)
    stale = []
    for page in arguments.pages or pages(Path()):
        if not page.is_file():
            raise UserError(f"{page} does not exist: give the path of a page")
        try:
            text = page.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{page} is not readable ({one_line(error)}): give a page in UTF-8") from error
        try:
            rewritten = rewrite(text, cells, arguments.cells.parent)
        except UserError as error:
            raise UserError(f"{page}: {error}") from error
        if text == rewritten:
            continue
        stale.append(page)
        if not arguments.check:
            write_text(page, rewritten)
            print(f"{page}: made from {len(cells)} cells of {arguments.cells}")
    if arguments.check and stale:
        print(
            f"{', '.join(map(str, stale))}: differs from {arguments.cells} and the files beside it: run python -m analysis.readme"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
