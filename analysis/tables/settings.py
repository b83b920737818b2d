"""Tables of K-prune with parts left out, and of K-prune with one setting moved."""

from collections.abc import Iterator

import pandas as pd

from analysis import names, registry
from analysis.aggregate import calibration_budget
from analysis.render import MISSING, method_label, model_label, score, target_label, task_label, without_one_model
from analysis.variants import changed, without_calibration
from experiments.store.variant import variant_parts, variant_text

VARIANT_KEYS = {"lambdas": "lambda", "mu": "mu", "temperature": "temperature"}
"""The column of `names.SENSITIVITY` for the key of a variant. `tokens` is left out: a calibration budget is no change of the method."""


def ablation(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per variant of our methods, and a column per task and target; the unchanged method stands first.

    Not shown are variants that are points of a sensitivity curve, and the unchanged method where no other variant has the same
    model, task, target, calibration budget and precision.

    Args:
        table: rows of `aggregate`.
    """
    table = table[registry.ours(table["method"])].assign(tokens=calibration_budget)
    table = table.assign(precision=table["settings"].map(precision_of), settings=table["settings"].map(changed))
    table = table[~table["settings"].map(only_moved).astype(bool)]
    # A changed variant is compared with the unchanged method on the same calibration budget and in the same precision.
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
    """Return the part of a variant that sets the precision of passes; the precision is no part of a method."""
    return variant_text({key: value for key, value in variant_parts(variant).items() if key == "precision"})


def only_moved(settings: str) -> bool:
    """Tell whether a variant is a point of a sensitivity curve and no ablation: it changes one of `VARIANT_KEYS`, and has no name."""
    return (
        settings not in names.SETTINGS
        and len(variant_parts(settings)) == 1
        and set(variant_parts(settings)) <= set(VARIANT_KEYS)
    )


def sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per setting and value, and a column per task and target.

    If a setting was moved on several calibration budgets, it has rows for each budget.

    Args:
        table: rows of `aggregate`.
    """
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
    """Return the words for a curve's calibration budget, behind its name; empty for 0, a curve that needs no words."""
    return f", {budget:,.0f} tokens" if budget else ""


def curves(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str, str, float], pd.DataFrame]]:
    """Yield each sensitivity curve of K-prune: (model, task, target, setting, budget) and its points, which differ in the setting alone.

    The points are rows of `table`, sorted by the value of the setting. They have a column `lam` with the values of `lambda`, which
    is a keyword of Python. `budget` is their calibration tokens if the setting was moved on several budgets, else 0.
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
