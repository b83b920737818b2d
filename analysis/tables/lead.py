"""Points by which K-prune, K-prune+ and their presets are ahead of each retrained method, with the interval of the difference."""

import numpy as np
import pandas as pd

from analysis import bootstrap, registry
from analysis.pairing import common_seeds, paired_draws
from analysis.render import (
    MISSING,
    mean_and_deviation,
    method_label,
    model_label,
    signed,
    target_label,
    task_label,
    without_one_model,
)
from analysis.tables.accuracy import compared


def lead(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per task, model, target and retrained method, and a column for each of our methods: its points ahead.

    The points are the difference of the means over the seeds that both methods have. In brackets stands the 95 % interval by a
    paired bootstrap over examples and seeds, if the predictions were kept. Perplexities are left out.

    Args:
        table: rows of `aggregate`.
    """
    table = table[table["higher_is_better"].astype(bool)]
    trains = registry.retrained(table["method"])
    table = table[registry.ours(table["method"]) & compared(table) | trains]
    rows = []
    for (task, model, target), cells in table.groupby(["task", "model", "target"], sort=False):
        trains = registry.retrained(cells["method"])
        for _, theirs in cells[trains].iterrows():
            row = {"Task": task_label(task), "Model": model_label(model), "Asked": target_label(target)}
            row |= {"Method": method_label(theirs["method"], theirs["settings"]), "Seeds": f"{theirs['seeds']}"}
            row["Score"] = mean_and_deviation(theirs["score"], theirs["score_std"])
            for _, ours in cells[~trains].iterrows():
                row[f"{method_label(ours['method'], ours['settings'])}, ahead by"] = points(ours, theirs)
            rows.append(row)
    return without_one_model(pd.DataFrame(rows).fillna(MISSING))


def points(ours: pd.Series, theirs: pd.Series) -> str:
    """Write ours minus theirs, the mean over their common seeds, with its interval if there is one: +3.2 [+0.4, +6.1]."""
    draws = paired_draws(ours, theirs)
    if draws is None:
        seeds = common_seeds(ours, theirs)
        means = [
            np.mean(
                [score for seed, score in zip(row["seed_numbers"], row["seed_scores"], strict=True) if seed in seeds]
            )
            for row in (ours, theirs)
            if seeds
        ]
        return signed(means[0] - means[1]) if seeds else MISSING
    measured, low, high = bootstrap.interval(draws)
    return f"{signed(measured)} [{signed(low)}, {signed(high)}]"
