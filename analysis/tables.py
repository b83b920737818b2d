"""Tables from result files: `python -m analysis.tables OUTPUTS [--format latex] [--output FOLDER]`."""

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis import names, paper
from analysis.records import command, load, write_text

MISSING = "–"
SUFFIX = {"markdown": "md", "latex": "tex", "csv": "csv"}
GROUP = ["task", "model", "method", "settings", "target"]
MEANS = [
    "dense_score",
    "score",
    "flops_reduction",
    "params_reduction",
    "pruning_seconds",
    "calibration_tokens",
    "latency_speedup",
]


def aggregate(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per task, model, method, settings and target: means over seeds, `score_std`, `seeds`, the paper's score.

    `settings` are the variant's. The calibration budget, which has a column of its own, is among them only where cells
    differ in nothing else.
    """
    cells = cells.assign(settings=settings(cells))
    groups = cells.groupby(GROUP, sort=False, dropna=False)
    table = groups[MEANS].mean()
    table.insert(2, "score_std", groups["score"].std())
    table["seeds"] = groups.size()
    table["metric"] = groups["metric"].first()
    table = table.reset_index()
    table["paper"] = [
        None if row.settings else paper.score(row.task, row.model, row.method, row.target) for row in table.itertuples()
    ]
    table["paper"] = table["paper"].astype(float)
    order = [
        table["task"].map(lambda key: names.position(names.TASKS, key)),
        table["task"],
        table["model"].map(lambda key: names.position(names.MODELS, key)),
        table["model"],
        table["target"].map(target_order),
        table["method"].map(lambda key: names.position(names.METHODS, key)),
        table["method"],
        table["settings"],
    ]
    ranks = pd.concat(order, axis=1, ignore_index=True)
    return table.loc[ranks.sort_values(list(ranks.columns)).index].reset_index(drop=True)


def settings(cells: pd.DataFrame) -> pd.Series:
    """The variant of each cell, without `tokens=...` unless another cell differs in that alone."""
    short = cells["variant"].map(
        lambda variant: ",".join(part for part in variant.split(",") if not part.startswith("tokens="))
    )
    keys = [cells[name] for name in ("task", "model", "method", "target", "seed")] + [short]
    several = cells.groupby([key.to_numpy() for key in keys])["variant"].transform("nunique") > 1
    return cells["variant"].where(several, short)


def target_order(target: str) -> tuple[bool, float, str]:
    """Shares of FLOPs by size, then speed-ups by size."""
    speedup = target.endswith("x")
    try:
        return speedup, float(target.rstrip("x")), target
    except ValueError:
        return True, float("inf"), target


def target_label(target: str) -> str:
    """0.8 to "80 %", 2x as it is."""
    return target if target.endswith("x") else f"{100 * float(target):g} %"


def method_label(method: str, variant: str) -> str:
    name = names.METHODS.get(method, method)
    return f"{name} ({variant.replace(',', ', ')})" if variant else name


def cell_table(table: pd.DataFrame) -> pd.DataFrame:
    """Every measurement, ready to be shown; `table` comes from `aggregate`."""
    shown = pd.DataFrame(
        {
            "Task": table["task"].map(lambda key: names.TASKS.get(key, key)),
            "Model": table["model"].map(lambda key: names.MODELS.get(key, key)),
            "Method": [method_label(row.method, row.settings) for row in table.itertuples()],
            "Asked": table["target"].map(target_label),
            "Metric": table["metric"],
            "Dense": table["dense_score"].map(number),
            "Pruned": [mean_and_deviation(row.score, row.score_std) for row in table.itertuples()],
            "Paper": table["paper"].map(number),
            "FLOPs removed": table["flops_reduction"].map(percent),
            "Params removed": table["params_reduction"].map(percent),
            "Calibration tokens": table["calibration_tokens"].map(lambda value: number(value, "{:,.0f}")),
            "Pruning": table["pruning_seconds"].map(lambda value: number(value, "{:.1f} s")),
            "Speed-up": table["latency_speedup"].map(lambda value: number(value, "{:.2f}x")),
        }
    )
    return shown if table["paper"].notna().any() else shown.drop(columns="Paper")


def score_table(table: pd.DataFrame) -> pd.DataFrame:
    """Scores alone: a row per task, model and method, a column per target; `table` comes from `aggregate`."""
    targets = sorted(table["target"].unique(), key=target_order)
    rows = []
    for (task, model), of_task in table.groupby(["task", "model"], sort=False):
        by_method = sorted(
            of_task.groupby(["method", "settings"], sort=False),
            key=lambda entry: (names.position(names.METHODS, entry[0][0]), entry[0]),
        )
        for (method, variant), group in by_method:
            scores = {row.target: mean_and_deviation(row.score, row.score_std) for row in group.itertuples()}
            rows.append(
                {
                    "Task": names.TASKS.get(task, task),
                    "Model": names.MODELS.get(model, model),
                    "Metric": of_task["metric"].iloc[0],
                    "Dense": number(of_task["dense_score"].mean()),
                    "Method": method_label(method, variant),
                }
                | {target_label(target): scores.get(target, MISSING) for target in targets}
            )
    shown = pd.DataFrame(rows)
    return shown.drop(columns="Model") if table["model"].nunique() == 1 else shown


def number(value: float | None, form: str = "{:.2f}") -> str:
    return MISSING if pd.isna(value) else form.format(value)


def percent(share: float | None) -> str:
    return MISSING if pd.isna(share) else f"{100 * share:.1f} %"


def mean_and_deviation(mean: float, deviation: float) -> str:
    return number(mean) if pd.isna(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def notes(cells: pd.DataFrame) -> str:
    """What the numbers were measured on, in a line or a few."""
    machine = cells[["latency_device", "latency_batch_size", "latency_sequence_length", "latency_threads"]]
    lines = [
        f"Speed-up measured on {device}, batch {batch:g} of {length:g} tokens, {threads:g} threads."
        for device, batch, length, threads in machine.dropna().drop_duplicates().itertuples(index=False)
    ]
    seeds = sorted(cells["seed"].unique())
    lines.append(f"Seed {seeds[0]}." if len(seeds) == 1 else f"Means ± standard deviation over up to {len(seeds)} seeds.")
    return " ".join(lines)


def render(table: pd.DataFrame, form: str) -> str:
    """A table of strings as Markdown, LaTeX (booktabs) or CSV."""
    if form == "markdown":
        return table.to_markdown(index=False, disable_numparse=True) + "\n"
    if form == "latex":
        tex = table.map(latex).rename(columns=latex)
        return tex.to_latex(index=False)
    return table.to_csv(index=False)


def latex(text: str) -> str:
    """Escaped, with the signs that LaTeX has commands for."""
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("±", "$\\pm$").replace("–", "--")


def write_tables(cells: pd.DataFrame, form: str, output: Path) -> list[Path]:
    """Write `cells` and `scores`; CSV has unrounded numbers in one file, `cells`."""
    table = aggregate(cells)
    if form == "csv":
        texts = {"cells": table.to_csv(index=False)}
    else:
        texts = {"cells": render(cell_table(table), form), "scores": render(score_table(table), form)}
    paths = []
    for name, text in texts.items():
        paths.append(output / f"{name}.{SUFFIX[form]}")
        write_text(paths[-1], text)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.tables", description="Tables from result files.")
    parser.add_argument("source", type=Path, help="output folder of run.py, or CSV file of analysis.collect")
    parser.add_argument("--format", choices=SUFFIX, default="markdown", help="what is printed; all three are written")
    parser.add_argument("--output", type=Path, help="folder to write to; default: tables/ beside or in the source")
    arguments = parser.parse_args()
    cells = load(arguments.source)
    folder = arguments.source if arguments.source.is_dir() else arguments.source.parent
    paths = {form: write_tables(cells, form, arguments.output or folder / "tables") for form in SUFFIX}
    print("\n".join(path.read_text() for path in paths[arguments.format]))
    print(notes(cells))
    print("tables:", *(path for written in paths.values() for path in written))


if __name__ == "__main__":
    sys.exit(command(main))
