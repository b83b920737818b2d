"""Tables of measurements that are not cells: the benchmark's, latencies, divergences on held-out examples."""

import pandas as pd

from analysis.render import (
    MISSING,
    method_label,
    model_label,
    number,
    target_label,
    task_label,
    times,
    without_one_model,
)

AUTHORS_WAY = {"floor": "floor of the exact method", "whole_model": "whole model per sublayer, as the authors do"}


def bench(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the pruning costs of results/bench.csv: seconds, dense forwards over the same tokens, peak memory.

    The time of a dense forward is that of `in_forwards`.

    Args:
        rows: of the file, as in all functions of this module.
    """
    rows = in_forwards(rows).sort_values(["shape", "tokens"], kind="stable")
    return pd.DataFrame(
        {
            "Model": rows["shape"].map(model_label),
            "Tokens (padded)": [f"{row.tokens:,} ({row.padded_tokens_sorted:,})" for row in rows.itertuples()],
            "Method": rows["method"].map(cost_label),
            "Seconds": rows["seconds"].map(lambda value: number(value, "{:.1f}")),
            "Dense forwards": rows["units"].map("{:.1f}".format),
            "Of the floor": rows["of_floor"].map(times),
            "Of the authors' way": rows["of_whole_model"].map(times),
            "Peak memory": rows["peak_mb"].map(lambda value: number(value, "{:,.0f} MB")),
            "Of the authors' memory": rows["peak_of_whole_model"].map(times),
        }
    )


def in_forwards(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the benchmark with their cost in dense forwards (`units`), and with its ratios to the reference rows.

    Each row has timed a dense forward of its own. Rows of one shape, tokens and device are divided by the median of these times:
    by its own, a method would look cheap if the machine was slow during that forward. The floor has no seconds, and keeps its units.

    Returns:
        The rows with `units`, `of_floor`, `of_whole_model` and `peak_of_whole_model`; a ratio is NaN without its reference row.
    """
    place = [rows["shape"], rows["tokens"], rows["device"]]
    forward = rows.groupby(place)["forward_seconds"].transform("median")
    rows = rows.assign(units=(rows["seconds"] / forward).fillna(rows["units"]))

    def of(name: str, column: str) -> pd.Series:
        return rows[column] / rows[column].where(rows["method"] == name).groupby(place).transform("max")

    floor, whole = AUTHORS_WAY
    return rows.assign(
        of_floor=of(floor, "units"), of_whole_model=of(whole, "units"), peak_of_whole_model=of(whole, "peak_mb")
    )


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Show a row for each shape, method and device of the benchmark: its last measurement, the seconds of the one before, if any, and
    its three longest stages.
    """
    shown = []
    for (shape, method, _), own in rows.groupby(["shape", "method", "device"], sort=False):
        now, before = own.iloc[-1], own["seconds"].iloc[-2] if len(own) > 1 else None
        stages = sorted(parts_of(now["stages"]), key=lambda stage: stage[1], reverse=True)
        shown.append(
            {
                "Model": model_label(shape),
                "Method": cost_label(method),
                "Seconds before": number(before, "{:.1f}"),
                "Seconds": number(now["seconds"], "{:.1f}"),
                "Dense forwards": f"{now['units']:.1f}",
                "Peak memory": number(now["peak_mb"], "{:,.0f} MB"),
                # Of several reductions, the benchmark keeps the stages of the last one.
                "Most of it": MISSING
                if "_" in str(now["flops_reduction"])
                else ", ".join(f"{name} {value:.1f} s" for name, value in stages[:3]),
            }
        )
    table = without_one_model(pd.DataFrame(shown))
    return table.drop(columns="Seconds before") if (table["Seconds before"] == MISSING).all() else table


def parts_of(stages: str) -> list[tuple[str, float]]:
    """Return (stage, seconds) for each stage in the text `name=seconds name=seconds ...`."""
    pairs = (stage.split("=") for stage in stages.split())
    return [(name.replace("_", " "), float(seconds)) for name, seconds in pairs]


def cost_label(method: str) -> str:
    """Return the name of a row of the benchmark: K-prune (lambdas=[1e-4]); its reference rows have the names of `AUTHORS_WAY`."""
    name, *settings = method.split(":")
    return AUTHORS_WAY.get(name) or method_label(name, ",".join(settings))


def latency_grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the speed-ups of results/latency.csv: a row per point of measurement, and a column per allocation of the kept units.

    A point is a machine, model, grain, runtime, precision, batch size and length. In brackets stand the extremes over the pairs
    of dense and pruned passes, if there are several. Machine, grain and precision have no column if all rows have the first
    machine, the grain 1 or float32.
    """
    keys = ["device", "shape", "grain", "runtime", "dtype", "batch_size", "sequence_length"]
    labels = ("Machine", "Model", "Grain", "Runtime", "Precision", "Batch", "Length")
    shown = []
    for key, group in rows.sort_values(keys).groupby(keys):
        row = dict(zip(labels, map(str, key), strict=True)) | {"Model": model_label(key[1])}
        row["Dense"] = f"{group['dense_ms'].iloc[0]:.1f} ms"
        row |= {
            r.allocation: f"{times(r.speedup)} "
            + (f"({r.speedup_low:.2f} to {r.speedup_high:.2f})" if r.repeats > 1 else "(once)")
            for r in group.itertuples()
        }
        shown.append(row)
    usual = {"Machine": rows["device"].iloc[0], "Grain": 1, "Precision": "float32"}
    columns = dict(zip(labels, keys, strict=True))
    plain = [label for label, value in usual.items() if (rows[columns[label]] == value).all()]
    return without_one_model(pd.DataFrame(shown).fillna(MISSING).drop(columns=plain))


def zeros_time(rows: pd.DataFrame) -> pd.DataFrame:
    """Show results/zeros_time.csv: the CPU time of a pass with and without zeros among the weights, and the ratio of the two.

    In brackets stand the extremes over the pairs of a dense pass and one with zeros.
    """
    shown = {
        "Model": rows["shape"].map(model_label),
        "Weights": rows["target"].map(target_label),
        "Batch": rows["batch_size"].map(str),
        "Length": rows["sequence_length"].map(str),
        "Dense": rows["dense_cpu_ms"].map("{:.0f} ms".format),
        "With zeros": rows["masked_cpu_ms"].map("{:.0f} ms".format),
        "Speed-up": [f"{times(r.ratio)} ({r.ratio_low:.2f} to {r.ratio_high:.2f})" for r in rows.itertuples()],
    }
    return without_one_model(pd.DataFrame(shown))


def held_out(rows: pd.DataFrame, stage: str) -> pd.DataFrame:
    """Show the rows of results/held_out.csv of one stage: a row per setting, the first with its divergence, the others relative to it.

    There is a column per task, share of FLOPs removed and calibration tokens, and per model and seed if the rows have these.
    """
    rows = rows[rows["stage"] == stage]
    if rows.empty:
        return rows
    rows = rows.reindex(columns=rows.columns.union(["model", "seed"], sort=False))  # older files have neither
    columns = [
        f"{task_label(row.task)} {100 * row.flops_reduction:g} %, {row.tokens:,} tokens"
        + ("" if pd.isna(row.model) else f", {model_label(row.model)}, seed {row.seed:g}")
        for row in rows.itertuples()
    ]
    shown = rows.assign(column=columns).pivot_table(
        index="settings", columns="column", values="held_out_divergence", sort=False, aggfunc="first"
    )
    changes = 100 * (shown / shown.iloc[0] - 1)
    changes = changes.map(lambda value: MISSING if pd.isna(value) else f"{round(value):+d} %".replace("-", "−"))
    changes.iloc[0] = [number(value, "{:.3f}") for value in shown.iloc[0]]
    changes.insert(0, "Settings", [cost_label(settings) for settings in shown.index])
    return changes


def decoder_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/decoder_steps.csv: divergence and perplexities of a pruned language model for each setting."""
    labels = {
        "held_out_kl": "KL, C4 held out",
        "c4_perplexity": "C4 held out",
        "validation_perplexity": "WikiText-2 validation",
        "test_16_perplexity": "Test, 16 windows",
        "test_perplexity": "Test",
    }
    columns = {
        label: rows[column].map(("{:.3f}" if column == "held_out_kl" else "{:.2f}").format)
        for column, label in labels.items()
    }
    return pd.DataFrame({"Settings": step_labels(rows)} | columns)


def decoder_trials(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/decoder_trials.csv: divergence, perplexities, and their difference from the first row on the same texts.

    Behind ± stands the standard error of the mean difference: over documents for the divergence, over windows for the perplexity.
    """
    first = rows.groupby("texts").cumcount() == 0

    def differences(column: str) -> list[str]:
        pairs = zip(rows[column], rows[f"{column}_error"], first, strict=True)
        return [
            MISSING if is_first else f"{value:+.3f} ± {error:.3f}".replace("-", "−") for value, error, is_first in pairs
        ]

    return pd.DataFrame(
        {
            "Settings": step_labels(rows),
            "KL, C4 held out": rows["held_out_kl"].map("{:.3f}".format),
            "Difference": differences("kl_difference"),
            "C4 held out": rows["c4_perplexity"].map("{:.2f}".format),
            "WikiText-2 validation": rows["validation_perplexity"].map("{:.2f}".format),
            "Difference of its logarithm": differences("validation_difference"),
        }
    )


def step_labels(rows: pd.DataFrame) -> list[str]:
    """Return the name of each row of a file of steps: its method with settings, or "dense"."""
    return [settings if settings == "dense" else cost_label(settings) for settings in rows["settings"]]


def decoder_curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/decoder_curves.csv: the divergence measured when one block alone is pruned, divided by its error curve.

    The ratios are relative to the median of the feed-forward networks, because an error curve has no scale.
    """
    kinds = rows["block"].str.split(".").str[1].map({"ffn": "Neurons", "attention": "Groups of heads"})
    ratios = rows["kl_over_curve"] / rows["kl_over_curve"][kinds == "Neurons"].median()
    return quartiles(ratios.groupby(kinds))


def decoder_units(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/decoder_units.csv: error per parameter of an attention's units, divided by that of the neurons."""
    kinds = rows["unit"].unique()
    return quartiles(rows.groupby(pd.Categorical(rows["unit"], kinds), observed=True)["error_over_neurons"])


def quartiles(groups: "pd.core.groupby.SeriesGroupBy") -> pd.DataFrame:
    """Return a row per group of numbers, with its extremes, quartiles and median."""
    shares = {"Lowest": 0.0, "First quartile": 0.25, "Median": 0.5, "Third quartile": 0.75, "Highest": 1.0}
    by_kind = {label: groups.quantile(share).map("{:.2f}".format) for label, share in shares.items()}
    return pd.DataFrame(by_kind).rename_axis("Units").reset_index()


def embedding_roots(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/embedding_roots.csv: errors and time by the number of sampled roots of the Fisher of embeddings."""
    return pd.DataFrame(
        {
            "Roots of the Fisher for each text": rows["roots"],
            "Squared distance": rows["squared_distance"].map("{:.3f}".format),
            "Error of the cosines": rows["cosine_error"].map("{:.4f}".format),
            "Spearman × 100, training pairs": rows["spearman"].map("{:.2f}".format),
            "Seconds for the Fisher": rows["fisher_seconds"].map("{:.0f}".format),
        }
    )


def low_rank_embeddings(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/low_rank_embeddings.csv: scores of word embeddings by their rank and by the tokens' weights in the fit."""
    rows = rows.assign(rank=rows["rank"].map(lambda rank: "full" if pd.isna(rank) else f"{rank:.0f}"))
    same = rows.groupby(["fit", "rank"], sort=False)
    shown = pd.DataFrame({"Parameters": same["parameters"].first().map(lambda count: f"{count / 1e6:.1f} million")})
    for task, of_task in rows.groupby("task", sort=False):
        shown[task_label(task)] = of_task.set_index(["fit", "rank"])["score"].map(number)
    return shown.reset_index().rename(columns={"fit": "Weights in the fit", "rank": "Rank"})


def pruned_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/pruned_first.csv: scores of an encoder that was pruned before or after it was fine-tuned."""
    return pd.DataFrame(
        {
            "Task": rows["task"].map(task_label),
            "FLOPs removed": rows["flops_reduction"].astype(str).map(target_label),
            "Dense": rows["dense"].map(number),
            "Fine-tuned, then pruned": rows["fine_tuned_first"].map(number),
            "Pruned, then fine-tuned": rows["pruned_first"].map(number),
        }
    )


def other_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/other_texts.csv: the divergence by the numbers of calibration tokens from the task and from elsewhere."""
    return pd.DataFrame(
        {
            "Task": rows["task"].map(task_label),
            "Tokens of the task": rows["own_tokens"].map("{:,}".format),
            "Tokens from elsewhere": rows["other_tokens"].map("{:,}".format),
            "Divergence": rows["held_out_divergence"].map("{:.3f}".format),
        }
    )
