"""K-prune with its parts left out, and with its settings moved."""

from collections.abc import Iterator

import pandas as pd

from analysis import names, registry
from analysis.aggregate import calibration_budget
from analysis.render import MISSING, method_label, model_label, score, target_label, task_label, without_one_model
from analysis.variants import changed, without_calibration
from experiments.store.variant import variant_parts, variant_text

VARIANT_KEYS = {"lambdas": "lambda", "mu": "mu", "temperature": "temperature"}
"""A variant's key to the column of `names.SENSITIVITY`; a calibration budget is no variant of the method."""


def ablation(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per variant of our methods, the method as it is first, a column per task and target.

    Targets at which nothing was left out are not shown, nor settings that are only moved.
    """
    table = table[registry.ours(table["method"])].assign(tokens=calibration_budget)
    table = table.assign(precision=table["settings"].map(precision_of), settings=table["settings"].map(changed))
    table = table[~table["settings"].map(only_moved).astype(bool)]
    # A variant stands beside the method as it is on the same calibration budget, in the same precision.
    place = ["model", "task", "target", "tokens", "precision"]
    keys = set(table.loc[table["settings"] != "", place].fillna(-1).itertuples(index=False, name=None))
    beside = [key in keys for key in table[place].fillna(-1).itertuples(index=False, name=None)]
    several = table.loc[beside, "tokens"].nunique() > 1
    rows: dict[tuple, dict[str, str]] = {}
    columns = []
    for row in table[beside].itertuples():
        name = names.SETTINGS.get(row.settings, row.settings.replace(",", ", "))
        key = (row.model, row.tokens if several else 0, row.method, row.precision, row.settings)
        line = rows.setdefault(
            key, {"Model": model_label(row.model), "Method": method_label(row.method, row.precision)}
        )
        line |= {"Variant": f"{name}, {row.tokens:,.0f} tokens" if several else name}
        columns.append(f"{task_label(row.task)} {target_label(row.target)}")
        line[columns[-1]] = score(row)
    order = sorted(
        rows,
        key=lambda key: (*key[:2], registry.position(key[2]), key[3], names.position(names.SETTINGS, key[4]), key[4]),
    )
    columns = ["Model", "Method", "Variant", *dict.fromkeys(columns)]
    return without_one_model(
        pd.DataFrame([rows[key] for key in order], columns=columns if rows else None).fillna(MISSING)
    )


def precision_of(variant: str) -> str:
    """Return what a variant says of the precision of passes, which is no part of a method."""
    return variant_text({key: value for key, value in variant_parts(variant).items() if key == "precision"})


def only_moved(settings: str) -> bool:
    """Tell whether a variant is a point of a sensitivity curve and no ablation."""
    return (
        settings not in names.SETTINGS
        and len(variant_parts(settings)) == 1
        and set(variant_parts(settings)) <= set(VARIANT_KEYS)
    )


def sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per setting and value of it, and calibration budget if a setting was moved on several, a column per task and target."""
    rows: dict[tuple, dict[str, str]] = {}
    columns = []
    for (model, task, target, setting, budget), curve in curves(table):
        columns.append(f"{task_label(task)} {target_label(target)}")
        for row in curve.itertuples():
            value = getattr(row, setting) if setting != "lambda" else row.lam
            key = (model, list(names.SENSITIVITY).index(setting), budget, value)
            line = rows.setdefault(key, {"Model": model_label(model)})
            line |= {
                "Setting": names.SENSITIVITY[setting] + on_budget(budget),
                "Value": f"{value:,g}" if value < 1e6 else f"{value:g}",
            }
            line[columns[-1]] = score(row)
    columns = ["Model", "Setting", "Value", *dict.fromkeys(columns)]
    return without_one_model(
        pd.DataFrame([rows[key] for key in sorted(rows)], columns=columns if rows else None).fillna(MISSING)
    )


def on_budget(budget: float) -> str:
    """Return what to say of a curve's calibration budget: nothing if it is 0."""
    return f", {budget:,.0f} tokens" if budget else ""


def curves(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str, str, float], pd.DataFrame]]:
    """Find ((model, task, target, setting, budget), points of K-prune that differ in that setting alone), sorted by its value.

    The points have a column `lam` for "lambda", which is no name in Python. `budget` is their calibration tokens if a setting was
    moved on several, else 0.
    """
    table = table[table["method"] == "kprune"].assign(
        changed=lambda cells: cells["settings"].map(without_calibration),
        lam=lambda cells: cells["lambda"],
        budget=calibration_budget,
    )
    keys = table["changed"].map(lambda text: [VARIANT_KEYS.get(key) for key in variant_parts(text)])
    for setting in names.SENSITIVITY:
        moved = keys.map(lambda found, setting=setting: found == [setting]).astype(bool)
        budgets = table.loc[moved, "budget"].unique()
        for (model, task, target), cells in table.groupby(["model", "task", "target"], sort=False):
            plain = cells[cells["changed"] == ""]
            for budget, of_budget in (
                cells[moved[cells.index]].groupby("budget") if setting != "tokens" else [(0, plain)]
            ):
                beside = plain if setting == "tokens" else pd.concat([plain[plain["budget"] == budget], of_budget])
                points = beside.dropna(subset=setting).sort_values(setting)
                if points[setting].nunique() > 1:
                    yield (model, task, target, setting, budget if len(budgets) > 1 else 0), points
