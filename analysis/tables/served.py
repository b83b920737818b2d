"""What models cost in onnxruntime, dense and pruned, with weights of 32 and of eight bits."""

import pandas as pd

from analysis.render import method_label, model_label, task_label, times, without_one_model

CELL = ["task", "model", "method", "variant", "seed", "flops_reduction", "sequence_length", "device"]
MODEL = [*CELL, "units", "dtype", "fused_norms"]


def served(rows: pd.DataFrame) -> pd.DataFrame:
    """Show the rows of results/served.csv: a row for each kind of a model, with its score, size, and CPU time for each batch size.

    In brackets is how many times as fast it is as the dense model in float32 with onnxruntime's own choice of kernels.
    """
    shown = []
    for _, cell in rows.groupby(CELL, sort=False, dropna=False):
        usual = cell[(cell["units"] == "all") & (cell["dtype"] == "float32") & cell["fused_norms"]]
        dense = usual.set_index("batch_size")["cpu_ms"]
        for _, of in cell.groupby(MODEL, sort=False, dropna=False):
            row = of.iloc[0]
            pruned = f"{method_label(row.method)}, {100 * row.flops_reduction:g} %"
            columns = {
                "Task": task_label(row.task),
                "Model": model_label(row.model),
                "Units": pruned if row.units == "kept" else "dense",
                "Weights": row.dtype,
                "Sum and norm": "one kernel" if row.fused_norms else "two kernels",
                "Score": f"{row.score:.2f}",
                "File": f"{row.megabytes:.1f} MB",
            }
            for batch, ms in of.set_index("batch_size")["cpu_ms"].items():
                columns[f"{batch} x {row.sequence_length} tokens"] = f"{ms:.1f} ms ({times(dense[batch] / ms)})"
            shown.append(columns)
    return without_one_model(pd.DataFrame(shown))
