"""Size and CPU time of dense and pruned models in onnxruntime, with weights of 32 and of eight bits."""

import pandas as pd

from analysis.render import method_label, model_label, task_label, times, without_one_model

MODEL = ["task", "model", "method", "variant", "seed", "flops_reduction", "device", "units", "dtype", "fused_norms"]
"""The columns that identify the model of a row."""


def served(rows: pd.DataFrame) -> pd.DataFrame:
    """Show results/served.csv: a row per model, dense or pruned, by weights and kernels: score, size, CPU time for each batch size.

    In brackets stands the speed-up over the dense model in float32 with the kernels that onnxruntime chooses by itself.

    Args:
        rows: of the file.
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
