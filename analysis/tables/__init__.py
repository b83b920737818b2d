"""The tables, by name. Each is made of the rows of `analysis.aggregate`, and is empty if no row is for it."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from analysis.render import method_label, model_label, task_label
from analysis.tables.accuracy import accuracy
from analysis.tables.lead import lead
from analysis.tables.loss import loss
from analysis.tables.measurements import cost, latency, measurements, retrained, size
from analysis.tables.perplexity import perplexity, perplexity_ratios
from analysis.tables.settings import ablation, sensitivity
from analysis.tables.speedup import speedup
from analysis.tables.summary import summary
from analysis.tables.trade import trade

SCORES = (
    "Scores in percent, perplexities as they are, mean ± standard deviation over seeds. In brackets, the 95 % interval of the "
    "difference from K-prune on the same evaluation examples, by a paired bootstrap, in points."
)


@dataclass(frozen=True)
class Table:
    """A title, a note that tells how to read the table, and the function that makes it from rows of `aggregate`."""

    title: str
    note: str
    make: Callable[[pd.DataFrame], pd.DataFrame]


TABLES = {
    "accuracy": Table("Scores by FLOPs removed", SCORES + " Best of a task and target in bold.", accuracy),
    "loss": Table(
        "Points lost",
        "Dense score minus pruned, means over seeds; ratios of the mean over the tasks. The mean leaves out a task whose dense "
        "model is within 5 points of the majority's score.",
        loss,
    ),
    "summary": Table(
        "Points lost at 80 %",
        "Dense score minus pruned, mean ± standard deviation over seeds; one seed if there is no deviation. Methods that "
        "have every task, without tasks whose dense model is within 5 points of the majority's score.",
        summary,
    ),
    "trade": Table(
        "What removing more costs and buys",
        "Of each method, the tasks that it has at every share. Points lost are means over tasks, beside those of the task that loses "
        "most. Of the layers' parameters, what is left. Speed-ups are geometric means.",
        trade,
    ),
    "perplexity": Table(
        "Perplexities",
        "Mean ± standard deviation over seeds, one seed if there is no deviation. The lowest of a target in bold.",
        perplexity,
    ),
    "perplexity_ratios": Table(
        "Perplexities against K-prune+'s",
        "Ratios of perplexities. In brackets, the 95 % interval by a paired bootstrap over the windows of the evaluation text.",
        perplexity_ratios,
    ),
    "speedup": Table(
        "Speed-up within 3 points",
        "Measured speed-up of the fastest model that loses at most 3 points, and the FLOPs it was asked to lose. "
        "Bold if it is at least 1.1 times the next.",
        speedup,
    ),
    "ablation": Table("Ablation", SCORES, ablation),
    "sensitivity": Table("Sensitivity", SCORES, sensitivity),
    "retrained": Table("Retrained methods", SCORES, retrained),
    "lead": Table(
        "Ahead of retrained methods",
        "Points by which the score is above that of the retrained method, means over seeds. In brackets, the 95 % interval by a "
        "paired bootstrap over evaluation examples and seeds.",
        lead,
    ),
    "latency": Table("Latency", "Median of alternating forward passes of the dense and the pruned model.", latency),
    "cost": Table("Cost", "Wall-clock seconds of pruning; measured speed-up.", cost),
    "size": Table(
        "Size",
        "Parameters, tied ones once, and megabytes of the weights on disk, in float32. If the vocabulary was cut: the tokens kept, the "
        "share of the evaluation set's tokens that others spell, and the tokens that there are now for each before.",
        size,
    ),
    "measurements": Table("Every measurement", "Means over seeds.", measurements),
}


def protocols(cells: pd.DataFrame) -> list[str]:
    """Return a sentence for each kind of perplexity among `cells`: its model, windows, text and first token. `cells` as in `notes`."""
    columns = ["model", "task", "evaluation_examples", "evaluation_window", "evaluation_data", "evaluation_first_token"]
    rules = {
        "once": "the tokenizer's first token stands once, before the text",
        "none": "no first token",
        "each": "special tokens around each",
    }
    return [
        f"Perplexity of {model_label(model)} on {task_label(task)}: {count:,.0f} disjoint windows of {window:,.0f} tokens of "
        f"{data}, {rules[rule]}."
        for model, task, count, window, data, rule in cells[columns].dropna().drop_duplicates().itertuples(index=False)
    ]


def versions(cells: pd.DataFrame) -> list[str]:
    """Return a sentence for each method with several versions: which version ran on which tasks. `cells` as in `notes`."""
    found = []
    for (model, method), of_method in cells.groupby(["model", "method"], sort=False):
        if of_method["method_version"].nunique() > 1:
            of = f" of {model_label(model)}" if cells["model"].nunique() > 1 else ""
            parts = [
                f"version {version:g} on {', '.join(dict.fromkeys(of_version['task'].map(task_label)))}"
                for version, of_version in of_method.groupby("method_version")
            ]
            found.append(f"{method_label(method)}{of} is {', '.join(parts[:-1])} and {parts[-1]}.")
    return found


def notes(cells: pd.DataFrame) -> str:
    """Return sentences on perplexities, versions, machines and seeds of the cells, in one line; `cells` are rows of `analysis.records`."""
    machine = cells[["latency_device", "latency_batch_size", "latency_sequence_length", "latency_threads"]]
    lines = (
        protocols(cells)
        + versions(cells)
        + [
            f"Speed-up measured on {device}, batch {batch:g} of {length:g} tokens, {threads:g} thread{'s' * (threads > 1)}."
            for device, batch, length, threads in machine.dropna().drop_duplicates().itertuples(index=False)
        ]
    )
    seeds = sorted(cells["seed"].unique())
    lines.append(
        f"Seed {seeds[0]}." if len(seeds) == 1 else f"Means ± standard deviation over up to {len(seeds)} seeds."
    )
    return " ".join(lines)
