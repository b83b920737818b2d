"""Tables of costs, sizes and latencies, of retrained methods, and of all measurements at once."""

import pandas as pd

from analysis import registry
from analysis.aggregate import best_score
from analysis.render import (
    MISSING,
    mean_and_deviation,
    method_label,
    metric_label,
    model_label,
    number,
    percent,
    score,
    target_label,
    task_label,
    times,
    without_one_model,
)
from analysis.tables.accuracy import compared

SPEEDS = {
    "Prompt, tokens/s": ("latency_prefill_dense", "latency_prefill_pruned"),
    "Generation, tokens/s": ("latency_decoding_dense", "latency_decoding_pruned"),
}
"""Columns of the table, and the columns of `aggregate` with the speed of the dense and of the pruned model."""


def identified(table: pd.DataFrame) -> dict[str, list[str] | pd.Series]:
    """Return the columns that identify a row of a table."""
    return {
        "Task": table["task"].map(task_label),
        "Model": table["model"].map(model_label),
        "Method": [method_label(row.method, row.settings) for row in table.itertuples()],
        "Asked": table["target"].map(target_label),
    }


def measurements(table: pd.DataFrame) -> pd.DataFrame:
    """Show all measurements of all rows of `aggregate`; columns that no row fills may be missing."""
    shown = pd.DataFrame(
        identified(table)
        | {
            "Metric": list(map(metric_label, table["metric"], table["evaluation_window"])),
            "Dense": table["dense_score"].map(number),
            "Pruned": [mean_and_deviation(row.score, row.score_std) for row in table.itertuples()],
            "Paper": table["paper"].map(number),
            "FLOPs removed": table["flops_reduction"].map(percent),
            "Params removed": table["params_reduction"].map(percent),
            "Of the model": table["params_reduction_of_model"].map(percent),
            "Zeros": table["sparsity"].map(percent),
            "Calibration tokens": table["calibration_tokens"]
            .where(registry.reads_texts(table["method"]))
            .map(lambda value: number(value, "{:,.0f}")),
            "Pruning": table["pruning_seconds"].map(seconds),
            "Speed-up": table["latency_speedup"].map(times),
        }
    )
    optional = {"Paper": "paper", "Of the model": "params_reduction_of_model", "Zeros": "sparsity"}
    return shown.drop(columns=[name for name, column in optional.items() if table[column].isna().all()])


def cost(table: pd.DataFrame) -> pd.DataFrame:
    """Show the seconds of pruning and the measured speed-up, for the methods of the main comparison."""
    shown = measurements(table[compared(table)])
    return without_one_model(
        shown.drop(columns=["Metric", "Dense", "Pruned", "Params removed", "Of the model", "Paper"], errors="ignore")
    )


def size(table: pd.DataFrame) -> pd.DataFrame:
    """Show parameters and megabytes on disk, the FLOPs removed and the score; and the kept tokens if a vocabulary was cut.

    Cells that were written before sizes were recorded are left out.
    """
    table = table[table["size_parameters_dense"].notna()]
    shown = pd.DataFrame(
        identified(table)
        | {
            "Dense": table["dense_score"].map(number),
            "Pruned": [mean_and_deviation(row.score, row.score_std) for row in table.itertuples()],
            "FLOPs removed": table["flops_reduction"].map(percent),
            "Parameters": list(map(millions, table["size_parameters_dense"], table["size_parameters_pruned"])),
            "MB on disk": list(map(from_to, table["size_megabytes_dense"], table["size_megabytes_pruned"])),
            "Tokens kept": list(map(kept_of, table["vocabulary_kept"], table["vocabulary_of"])),
            "Spelled by others": table["vocabulary_missing"].map(percent),
            "Tokens for each": table["vocabulary_growth"].map(lambda value: number(value, "{:.3f}")),
        }
    )
    whole = table["vocabulary_kept"].isna().all()
    return without_one_model(shown.drop(columns=list(shown.columns[-3:]) if whole else []))


def millions(dense: float, pruned: float) -> str:
    """Write numbers of parameters: 22.7 to 5.1 million."""
    return f"{from_to(dense / 1e6, pruned / 1e6)} million"


def from_to(dense: float, pruned: float) -> str:
    """Write an amount for the dense and for the pruned model: 90.9 to 20.3."""
    return f"{number(dense, '{:,.1f}')} to {number(pruned, '{:,.1f}')}"


def kept_of(kept: float, of: float) -> str:
    """Write the number of kept tokens: 7,012 of 30,522; a dash if all are kept."""
    return MISSING if pd.isna(kept) else f"{kept:,.0f} of {of:,.0f}"


def latency(table: pd.DataFrame) -> pd.DataFrame:
    """Show measured latencies with their machine, batch size, length and threads."""
    table = table[table["latency_dense_ms"].notna()]
    shown = pd.DataFrame(
        identified(table)
        | {
            "FLOPs removed": table["flops_reduction"].map(percent),
            "Dense": table["latency_dense_ms"].map(milliseconds),
            "Pruned": table["latency_pruned_ms"].map(milliseconds),
            "Speed-up": table["latency_speedup"].map(times),
        }
        | {name: list(map(speeds, *(table[column] for column in pair))) for name, pair in SPEEDS.items()}
        | {
            "Machine": table["latency_device"],
            "Batch": table["latency_batch_size"].map("{:.0f}".format),
            "Tokens": table["latency_sequence_length"].map("{:.0f}".format),
            "Threads": table["latency_threads"].map("{:.0f}".format),
        }
    )
    return without_one_model(shown.drop(columns=[name for name in SPEEDS if (shown[name] == MISSING).all()]))


def retrained(table: pd.DataFrame) -> pd.DataFrame:
    """Show our methods beside those that train on the whole training set: score, FLOPs, steps, seconds.

    The last column is the ratio of a row's seconds to K-prune's, if both were measured on one machine; of several rows of K-prune,
    the one with the most calibration tokens counts. Only tasks and targets of a retrained method are shown; the best score is bold.
    """
    trains = registry.retrained(table["method"])
    table = table[registry.ours(table["method"]) & compared(table) | trains]
    shown = []
    for _, group in table.groupby(["task", "model", "target"], sort=False):
        if not registry.retrained(group["method"]).any():
            continue
        ours = group[group["method"] == "kprune"].sort_values("calibration_tokens").tail(1)
        beside = group["device"].fillna("").isin(ours["device"].fillna(""))
        times_ours = (group["pruning_seconds"] / ours["pruning_seconds"].mean()).where(beside)
        best = best_score(group)
        part = pd.DataFrame(
            identified(group)
            | {
                "FLOPs removed": group["flops_reduction"].map(percent),
                "Score": [score(row, best) for row in group.itertuples()],
                "Trained": [trained(row) for row in group.itertuples()],
                "Pruning": group["pruning_seconds"].map(seconds),
                "Times K-prune": times_ours.map(lambda ratio: number(ratio, "{:,.1f}x")),
            }
        )
        shown.append(part)
    return without_one_model(pd.concat(shown)) if shown else pd.DataFrame()


def trained(row) -> str:
    """Write the length of a training: 345 steps: 3 epochs of 3,668 examples."""
    if pd.isna(row.training_steps):
        return MISSING
    epochs = "1 epoch" if row.training_epochs == 1 else f"{row.training_epochs:g} epochs"
    return f"{row.training_steps:,.0f} steps: {epochs} of {row.training_examples:,.0f} examples"


def speeds(dense: float, pruned: float) -> str:
    """Write tokens per second of the dense and of the pruned model: 412 to 436."""
    return MISSING if pd.isna(dense) else f"{number(dense, '{:,.4g}')} to {number(pruned, '{:,.4g}')}"


def seconds(value: float) -> str:
    """Write seconds, with a decimal below 100."""
    return number(value, "{:,.0f} s" if value >= 100 else "{:.1f} s")


def milliseconds(value: float) -> str:
    """Write milliseconds."""
    return number(value, "{:.1f} ms")
