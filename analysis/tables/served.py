"""What models cost in onnxruntime, dense and pruned, with weights of 32 and of eight bits."""

import pandas as pd

from analysis.render import method_label, model_label, task_label, times, without_one_model

MODEL = ["task", "model", "method", "variant", "seed", "flops_reduction", "device", "units", "dtype", "fused_norms"]
"""The columns that say which model a row is of."""


def served(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/served.csv: a row for each kind of a model, with its score, size, and CPU time for each batch size.

    In brackets is how many times as fast it is as the dense model in float32 with onnxruntime's own choice of kernels.
    """
    shown = []
    for _, of in rows.groupby(MODEL, sort=False, dropna=False):
        row = of.iloc[0]
        pruned = f"{method_label(row.method)}, {100 * row.flops_reduction:g} %"
        columns = {
            "Task": task_label(row.task),
            "Model": model_label(row.model),
            "Units": pruned if row.units == "kept" else "dense",
            "Weights": row["dtype"],  # a series has a dtype of its own
            "Sum and norm": "one kernel" if row.fused_norms else "two kernels",
            "Score": f"{row.score:.2f}",
            "File": f"{row.megabytes:.1f} MB",
        }
        for at in of.itertuples():
            columns[f"{at.batch_size} x {at.sequence_length} tokens"] = f"{at.cpu_ms:.1f} ms ({times(at.speedup)})"
        shown.append(columns)
    return without_one_model(pd.DataFrame(shown))
