"""Result files as one table: a row a cell, a column a measurement."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.columns import COLUMNS, NUMBERS, OPTIONAL, TEXT, TRAINING, check
from analysis.pairing import DIFFERENCE, differences
from kprune.errors import UserError, one_line

KEY = ("task", "model", "method", "variant", "target", "seed")
MEND = "restore it, or remove it and make it again with python -m analysis.collect"


def load(source: str | Path) -> pd.DataFrame:
    """The cells of an output folder, or of the CSV file that `analysis.collect` made of one.

    Raises:
        UserError: nothing is there, or nothing of this kind.
    """
    source = Path(source)
    if source.is_dir():
        cells = read_folder(source)
        cells[DIFFERENCE] = differences(cells)
        return cells.drop(columns="predictions")
    if not source.is_file():
        raise UserError(f"{source} does not exist: give an output folder of run.py or a CSV file of analysis.collect")
    cells = read_csv(source, dtype=dict.fromkeys(TEXT, str))
    missing = [name for name in COLUMNS if name not in cells]
    if missing:
        raise UserError(f"{source} lacks the column {missing[0]}: {MEND}")
    cells = cells.fillna({"variant": ""})
    numbers = cells[list(NUMBERS)].apply(pd.to_numeric, errors="coerce").astype(object)
    # Beside a word, pandas leaves the numbers of a column as text.
    told = cells.assign(**numbers.where(numbers.notna(), cells[list(NUMBERS)]))
    for line, entry in enumerate(told.to_dict("records"), start=2):
        try:
            check(entry)
        except ValueError as error:
            raise UserError(f"{source}, line {line}: {error}: {MEND}") from error
    return cells


def read_csv(source: Path, **options: Any) -> pd.DataFrame:
    """A CSV file that a command of this project wrote, as pandas reads it.

    Raises:
        UserError: it is not one, is cut off, or has no row.
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
    """Every result.json below a folder, with the path of its `predictions` and without `DIFFERENCE`; a damaged one is named
    and left out.

    Raises:
        UserError: there is none.
    """
    rows = []
    for path in sorted(folder.rglob("result.json")):
        try:
            rows.append(row(json.loads(path.read_text()), path) | {"predictions": path.with_name("predictions.npz")})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"{path} is damaged ({reason}) and left out", file=sys.stderr)
    if not rows:
        raise UserError(f"{folder} holds no finished cell (no readable result.json): run one with python run.py")
    cells = pd.DataFrame(rows, columns=[*COLUMNS, "predictions"]).astype(dict.fromkeys(OPTIONAL, float))
    return in_order(cells)


def in_order(cells: pd.DataFrame) -> pd.DataFrame:
    """Sorted, and each cell once: of two with the same key, as of two runs in one folder, the first is counted."""
    again = cells.duplicated(list(KEY))
    for _, cell in cells[again].iterrows():
        name = "/".join(str(cell[key]) for key in KEY if cell[key] != "")
        print(f"{name} is there twice and counted once", file=sys.stderr)
    return cells[~again].sort_values(list(KEY), ignore_index=True)


def row(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """One result.json as a flat row of `COLUMNS`.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: it lacks something, or holds something else than a cell does.
    """
    nested = {
        f"{key}_{name}": value
        for key in ("evaluation", "checkpoint", "calibration", "latency")
        for name, value in (record[key] or {}).items()
    }
    flat = {name: record[name] for name in COLUMNS if name in record} | nested
    flat["variant"] = ",".join(f"{key}={compact(value)}" for key, value in sorted(record["variant"].items()))
    requested = record["flops_reduction_requested"]
    flat["target"] = path.parent.parent.name if requested is None else f"{requested:g}"
    for key in ("kept_heads", "kept_neurons"):
        flat[key] = " ".join(f"{number:g}" for number in record[key])
    flat |= asked(record["config"]) | training(record["details"])
    flat |= {name: record["versions"].get(name) for name in ("torch", "transformers")}
    found = {name: flat.get(name) for name in COLUMNS}
    check(found)
    return found


def asked(config: dict[str, Any]) -> dict[str, float | None]:
    """The settings that sensitivity is measured for."""
    method = config.get("method", {})
    lambdas = method.get("lambdas", [])
    calibration = config.get("calibration", {})
    return {
        "lambda": lambdas[0] if len(lambdas) == 1 else None,
        "mu": method.get("mu"),
        "temperature": method.get("knowledge", {}).get("temperature"),
        "tokens": None if calibration.get("examples") else calibration.get("tokens"),
    }


def training(details: dict[str, Any]) -> dict[str, float]:
    """`TRAINING` of a method that trains, nothing of another."""
    stages = details.get("training", {}).values()
    if not stages:
        return {}
    amounts = (
        max(stage["examples"] for stage in stages),
        *(sum(stage[name] for stage in stages) for name in ("epochs", "steps")),
    )
    return dict(zip(TRAINING, amounts, strict=True))


def compact(value: Any) -> str:
    """A setting in a line: 0.0001, True, a_b for a list; a comma would part two settings."""
    if isinstance(value, list):
        return "_".join(map(compact, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace(",", "_")


def command(main: Callable[[], None]) -> int:
    """Run a command line; its exit code, 2 and one line where the user can mend what went wrong."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
