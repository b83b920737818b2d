"""K-prune with its parts left out, and with its settings moved."""

from collections.abc import Iterator

import pandas as pd

from analysis import names, registry
from analysis.aggregate import calibration_budget
from analysis.render import MISSING, method_label, model_label, score, target_label, task_label, without_one_model
from analysis.variants import without_calibration
from experiments.store.variant import variant_parts

VARIANT_KEYS = {"lambdas": "lambda", "mu": "mu", "temperature": "temperature"}
"""A variant's key to the column of `names.SENSITIVITY`; a calibration budget is no variant of the method."""


def ablation(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per variant of our methods, the method as it is first, a column per task and target.

    Targets at which nothing was left out are not shown, nor settings that are only moved.
    """
    table = table[registry.ours(table["method"])].assign(tokens=calibration_budget)
    settings = table["settings"].map(without_calibration)
    table = table.assign(settings=settings)[~settings.map(only_moved).astype(bool)]
    # A variant stands beside the method as it is on the same calibration budget.
    place = ["model", "task", "target", "tokens"]
    keys = set(table.loc[table["settings"] != "", place].fillna(-1).itertuples(index=False, name=None))
    beside = [key in keys for key in table[place].fillna(-1).itertuples(index=False, name=None)]
    several = table.loc[beside, "tokens"].nunique() > 1
    rows: dict[tuple, dict[str, str]] = {}
    columns = []
    for row in table[beside].itertuples():
        name = names.SETTINGS.get(row.settings, row.settings.replace(",", ", "))
        key = (row.model, row.tokens if several else 0, row.method, row.settings)
        line = rows.setdefault(key, {"Model": model_label(row.model), "Method": method_label(row.method)})
        line |= {"Variant": f"{name}, {row.tokens:,.0f} tokens" if several else name}
        columns.append(f"{task_label(row.task)} {target_label(row.target)}")
        line[columns[-1]] = score(row)
    order = sorted(
        rows, key=lambda key: (*key[:2], registry.position(key[2]), names.position(names.SETTINGS, key[3]), key[3])
    )
    columns = ["Model", "Method", "Variant", *dict.fromkeys(columns)]
    return without_one_model(
        pd.DataFrame([rows[key] for key in order], columns=columns if rows else None).fillna(MISSING)
    )


def only_moved(settings: str) -> bool:
    """Tell whether a variant is a point of a sensitivity curve and no ablation."""
    return (
        settings not in names.SETTINGS
        and len(variant_parts(settings)) == 1
        and set(variant_parts(settings)) <= set(VARIANT_KEYS)
    )


def sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per setting and value of it, a column per task and target."""
    rows: dict[tuple, dict[str, str]] = {}
    columns = []
    for (model, task, target, setting), curve in curves(table):
        columns.append(f"{task_label(task)} {target_label(target)}")
        for row in curve.itertuples():
            value = getattr(row, setting) if setting != "lambda" else row.lam
            line = rows.setdefault(
                (model, list(names.SENSITIVITY).index(setting), value), {"Model": model_label(model)}
            )
            line |= {"Setting": names.SENSITIVITY[setting], "Value": f"{value:,g}" if value < 1e6 else f"{value:g}"}
            line[columns[-1]] = score(row)
    columns = ["Model", "Setting", "Value", *dict.fromkeys(columns)]
    return without_one_model(
        pd.DataFrame([rows[key] for key in sorted(rows)], columns=columns if rows else None).fillna(MISSING)
    )


def curves(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str, str], pd.DataFrame]]:
    """Find ((model, task, target, setting), points of K-prune that differ in that setting alone), sorted by its value.

    The points have a column `lam` for "lambda", which is no name in Python.
    """
    table = table[table["method"] == "kprune"].assign(
        changed=lambda cells: cells["settings"].map(without_calibration), lam=lambda cells: cells["lambda"]
    )
    for (model, task, target), cells in table.groupby(["model", "task", "target"], sort=False):
        plain = cells[cells["changed"] == ""]
        for setting in names.SENSITIVITY:
            if setting == "tokens":
                points = plain
            else:
                keys = cells["changed"].map(lambda text: [VARIANT_KEYS.get(key) for key in variant_parts(text)])
                moved = cells[keys.map(lambda found, setting=setting: found == [setting])]
                points = pd.concat([plain[plain["tokens"].isin(moved["tokens"])], moved])
            points = points.dropna(subset=setting).sort_values(setting)
            if points[setting].nunique() > 1:
                yield (model, task, target, setting), points
