"""Result files as one table: a row for each cell, a column for each measurement."""

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.columns import COLUMNS, LATER, NUMBERS, OPTIONAL, TEXT, TRAINING, check
from analysis.pairing import DIFFERENCE, differences
from experiments.store.record import Record
from experiments.store.variant import flattened, variant_text
from kprune.errors import UserError, one_line

KEY = ("task", "model", "method", "variant", "target", "seed")
SOURCE = ("checkpoint_sha256", "evaluation_sha256", "method_version")
"""Columns in which two cells with one key may differ; if they do, both are counted."""
MEND = "restore it, or remove it and make it again with python -m analysis.collect"


def load(source: str | Path) -> pd.DataFrame:
    """Read the cells of an output folder of run.py, or of a CSV file of `analysis.collect`.

    Returns:
        A row for each cell: `COLUMNS`, and the path of its `predictions`, a file that may be missing.

    Raises:
        UserError: the source does not exist, has no finished cell, or is not a CSV file of cells.
    """
    source = Path(source)
    if source.is_dir():
        cells = read_folder(source)
        cells[DIFFERENCE] = differences(cells)
        return cells
    if not source.is_file():
        raise UserError(f"{source} does not exist: give an output folder of run.py or a CSV file of analysis.collect")
    cells = read_csv(source, dtype=dict.fromkeys(TEXT, str))
    if "method_version" not in cells:  # written before methods had versions
        cells["method_version"] = 1
    cells = cells.assign(**{name: None if name in TEXT else float("nan") for name in LATER if name not in cells})
    missing = [name for name in COLUMNS if name not in cells]
    if missing:
        raise UserError(f"{source} lacks the column {missing[0]}: {MEND}")
    cells = cells.fillna({"variant": ""})
    numbers = cells[list(NUMBERS)].apply(pd.to_numeric, errors="coerce").astype(object)
    # If a column holds a word, pandas leaves its numbers as text.
    typed = cells.assign(**numbers.where(numbers.notna(), cells[list(NUMBERS)]))
    for line, entry in enumerate(typed.to_dict("records"), start=2):
        try:
            check(entry)
        except ValueError as error:
            raise UserError(f"{source}, line {line}: {error}: {MEND}") from error
    return in_order(cells.assign(predictions=[kept_predictions(source, cell) for _, cell in cells.iterrows()]))


def folder_of(source: Path) -> Path:
    """Return the default folder for files made from a source: an output folder itself, or the folder that a CSV file is in."""
    return source if source.is_dir() else source.parent


def kept_predictions(file: Path, cell: pd.Series) -> Path:
    """Return the path of a cell's predictions in the folder beside a CSV file; the file is missing if they were not kept."""
    return file.with_suffix("") / f"{cell_name(cell, separator='-')}.npz"


def read_csv(source: Path, **options: Any) -> pd.DataFrame:
    """Read a CSV file that a command of this project wrote.

    Raises:
        UserError: the file is not a readable CSV file, is cut off, or has no row.
    """
    try:
        text = source.read_text()
        rows = pd.read_csv(io.StringIO(text), **options)
    except (OSError, ValueError) as error:
        raise UserError(f"{source} is not a readable CSV file ({one_line(error)}): {MEND}") from error
    if not text.endswith("\n"):
        raise UserError(f"{source} ends within a line: {MEND}")
    if rows.empty:
        raise UserError(f"{source} has no row below its header: {MEND}")
    return rows


def read_folder(folder: Path) -> pd.DataFrame:
    """Read every result.json below a folder, with the path of its `predictions`; `DIFFERENCE` is left empty.

    A damaged result.json is named on stderr and left out.

    Raises:
        UserError: the folder has no readable result.json.
    """
    rows = []
    for path in sorted(folder.rglob("result.json")):
        try:
            record = Record.from_json(json.loads(path.read_text(encoding="utf-8")))
            rows.append(row(record) | {"predictions": path.with_name("predictions.npz")})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{path} is damaged ({one_line(error)}) and left out", file=sys.stderr)
    if not rows:
        raise UserError(f"{folder} holds no finished cell (no readable result.json): run one with python run.py")
    cells = pd.DataFrame(rows, columns=[*COLUMNS, "predictions"]).astype(dict.fromkeys(OPTIONAL, float))
    cells = cells.fillna(dict.fromkeys(TEXT, float("nan")))  # as a cell without a value is read from a CSV file
    return in_order(cells)


def in_order(cells: pd.DataFrame) -> pd.DataFrame:
    """Return cells sorted by `KEY`, without copies, which two runs in one folder may have left.

    Of cells that agree in `KEY` and `SOURCE`, the first stays; the others are named on stderr.
    """
    again = cells.duplicated([*KEY, *SOURCE])
    for _, cell in cells[again].iterrows():
        print(f"{cell_name(cell)} is there twice and counted once", file=sys.stderr)
    return cells[~again].sort_values(list(KEY), ignore_index=True)


def cell_name(cell: pd.Series, separator: str = "/") -> str:
    """Return a cell's key in one word: mrpc/minilm/kprune/tokens=2000/0.8/0."""
    return separator.join(str(cell[key]) for key in KEY if cell[key] != "")


def row(record: Record) -> dict[str, Any]:
    """Return a record as a flat row of `COLUMNS`.

    Raises:
        ValueError: a value of the record is none that its column may hold.
    """
    nested = {
        f"{group}_{name}": value
        for group in ("evaluation", "checkpoint", "calibration", "latency", "size", "vocabulary")
        if (part := getattr(record, group)) is not None
        for name, value in flattened(asdict(part), "_").items()
    }
    entries = (
        vars(record)
        | nested
        | asked(record.config)
        | training(record.details)
        | {name: record.versions.get(name) for name in ("torch", "transformers")}
        | {key: " ".join(f"{number:g}" for number in getattr(record, key)) for key in ("kept_heads", "kept_neurons")}
        | {
            "variant": variant_text(record.variant),
            "target": str(record.target),
            "method_version": record.method_version,
        }
    )
    found = {name: entries.get(name) for name in COLUMNS}
    check(found)
    return found


def asked(config: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the values of `names.SENSITIVITY` in a record's config; None for a setting without a single value."""
    method = config.get("method", {})
    lambdas = method.get("lambdas", [])
    calibration = config.get("calibration", {})
    return {
        "lambda": lambdas[0] if len(lambdas) == 1 else None,
        "mu": method.get("mu"),
        "temperature": method.get("knowledge", {}).get("temperature"),
        "tokens": None if calibration.get("examples") or calibration.get("file") else calibration.get("tokens"),
    }


def training(details: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of `TRAINING` from a record's details; empty if the method does not train."""
    stages = details.get("training", {}).values()
    if not stages:
        return {}
    amounts = (
        max(stage["examples"] for stage in stages),
        *(sum(stage[name] for stage in stages) for name in ("epochs", "steps")),
    )
    return dict(zip(TRAINING, amounts, strict=True))
