"""Measure score and CPU time of a dense and a pruned model in onnxruntime: `python -m experiments.speed.served OVERRIDE ...`.

The models are those of the cell that `python run.py OVERRIDE ...` would run. Each is exported to ONNX with weights of 32 bits and of
eight bits, and each file is run with and without onnxruntime's fused kernel for a sum and the norm after it. All variants are scored on
the task's whole evaluation set. They are timed in turn, in the CPU time of one thread, which does not grow if other processes keep the
machine busy. The rows of a cell replace its earlier rows in the file.
"""

import argparse
import itertools
import re
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers.utils import ModelOutput

from experiments.cell.runner import pruned
from experiments.config.cell import CellConfig, configured
from experiments.config.composing import refuse_others
from experiments.config.kinds import check, whole
from experiments.inputs.subject import subject_unscored
from experiments.scoring.evaluation import evaluate
from experiments.speed.cpu_time import cpu_times
from experiments.store import measurements
from experiments.store.variant import variant_text
from kprune.budgets.latency.timing import device_name, random_batch
from kprune.checkpoint import export_onnx
from kprune.checkpoint.onnx import check_onnx
from kprune.errors import UserError, command
from kprune.files import reachable

KEY = (
    "task",
    "model",
    "method",
    "variant",
    "seed",
    "flops_reduction",
    "units",
    "dtype",
    "fused_norms",
    "batch_size",
    "sequence_length",
    "device",
)
COLUMNS = (*KEY, "metric", "score", "megabytes", "cpu_ms", "speedup", "repeats", "threads", "torch", "onnxruntime")
"""`units` is "all" for the dense and "kept" for the pruned model; `dtype` is the type of the weights; `megabytes` is the size of the
file; `cpu_ms` is the median of the `repeats`; `speedup` is the `cpu_ms` of the dense model in float32 with fused norms, divided by
the row's `cpu_ms`."""
TAKEN = re.compile(
    r"\+*((calibration|method|model|task)\..+|calibration|flops_reduction|grain|method|model|precision|seed|task|uniform)"
)
"""Names of a cell's options that have an effect here."""
UNITS, DTYPES, FUSED_NORMS = ("all", "kept"), ("float32", "int8"), (True, False)


class Served(nn.Module):
    """An exported model in onnxruntime, on one thread, with the inputs and outputs of the model of transformers."""

    def __init__(self, file: Path, fused_norms: bool):
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        without = [] if fused_norms else ["SkipLayerNormFusion"]
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"], disabled_optimizers=without
        )
        self.reads = [given.name for given in self.session.get_inputs()]
        self.gives = [given.name for given in self.session.get_outputs()]

    def forward(self, **inputs: torch.Tensor) -> ModelOutput:
        zeros = torch.zeros_like(inputs["input_ids"])  # for token types, if the tokenizer returns none
        found = self.session.run(self.gives, {name: inputs.get(name, zeros).numpy() for name in self.reads})
        return ModelOutput(zip(self.gives, map(torch.from_numpy, found), strict=True))


def measure(config: CellConfig, batch_sizes: list[int], length: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each combination of `UNITS`, `DTYPES`, `FUSED_NORMS` and batch size.

    Args:
        config: the cell.
        batch_sizes: numbers of sequences in a batch.
        length: number of tokens in a sequence.
        repeats: number of timed passes of each model.

    Raises:
        UserError: the model does not read sequences of this length (raised before the pruning), or the pruning fails.
    """
    subject = subject_unscored(config)
    batches = {size: random_batch(subject.model, size, length) for size in batch_sizes}
    outcome, *_ = pruned(config, subject)
    cell = (config.task.name, config.model.name, config.method.name, variant_text(config.variant.plain()), config.seed)
    machine = (repeats, torch.get_num_threads(), torch.__version__, version("onnxruntime"))
    models = dict(zip(UNITS, (subject.model, outcome.model), strict=True))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {
            (units, dtype): export_onnx(models[units], Path(folder, f"{units}-{dtype}.onnx"), dtype == "int8")
            for units, dtype in itertools.product(UNITS, DTYPES)
        }
        served = {(*kind, fused): Served(file, fused) for kind, file in files.items() for fused in FUSED_NORMS}
        scores = {
            kind: evaluate(model, subject.task, subject.tokenizer)
            for kind, model in tqdm(served.items(), desc="scores", disable=None)
        }
        for size, batch in tqdm(batches.items(), desc="times", disable=None):
            times = [statistics.median(of) for of in cpu_times(list(served.values()), batch, repeats)]
            usual, *_ = times  # the first is the dense model in float32 with fused norms
            for kind, ms in zip(served, times, strict=True):
                key = (*cell, config.target.amount, *kind, size, length, device_name(torch.device("cpu")))
                megabytes = files[kind[:2]].stat().st_size / 1e6
                measured = (subject.task.metric, scores[kind], megabytes, ms, usual / ms, *machine)
                rows.append(dict(zip(COLUMNS, (*key, *measured), strict=True)))
    return rows


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="as for run.py: task=mrpc model=minilm ...")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="batch sizes (1 32)")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=reachable, default=Path("results/served.csv"))
    options = parser.parse_args()
    for name in ("length", "repeats"):
        check(f"--{name}", getattr(options, name), whole(1, "8"))
    for size in options.batches:
        check("--batches", size, whole(1, "32"))
    remedy = "give calibration, flops_reduction, grain, method, model, precision, seed, task or uniform"
    refuse_others(options.overrides, TAKEN, "", remedy)
    config = configured([*options.overrides, "device=cpu"])
    if not config.method.build().one_model:
        raise UserError(f"method {config.method.name} leaves no smaller model to export: give another one")
    check_onnx("int8")
    measurements.make_room(options.output, COLUMNS)
    torch.set_num_threads(1)
    measurements.put(options.output, COLUMNS, KEY, measure(config, options.batches, options.length, options.repeats))
    print(f"results: {options.output}")


if __name__ == "__main__":
    sys.exit(main())
