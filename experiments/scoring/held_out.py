"""Measure how close pruned models are to the teacher on examples that the methods have not seen: the basis for choosing settings.

    python -m experiments.scoring.held_out STAGE METHOD ...

The measure is the divergence (eq. 4) on training examples that are not in the calibration set. The evaluation set is never read. Each
row of the table is for one method, task, model and seed. It is written when it has been measured and replaces an earlier row for the
same. A method may have changed settings, as in `kprune_plus:floor=0.3`; `kprune_plus:precision=reduced` computes the method's passes in
reduced precision.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.config.cell import CellConfig, configured
from experiments.config.composing import refuse_others
from experiments.config.methods import method_and_precision
from experiments.inputs.calibration import calibration_set, draw_calibration
from experiments.inputs.checkpoints import check_padding, find_checkpoint, load_model, load_tokenizer
from experiments.inputs.subject import flops_length
from experiments.store import measurements
from kprune.budgets import FlopsBudget
from kprune.contract import Job, Method, PruningData
from kprune.data import CalibrationSet
from kprune.divergence import held_out_divergence
from kprune.errors import UserError, command
from kprune.files import reachable
from kprune.precision import PRECISIONS, Precision, check_reduced

COLUMNS = ("stage", "task", "flops_reduction", "tokens", "settings", "held_out_divergence", "model", "seed")
"""`stage` is a name shared by all rows that are compared with each other; `settings` is a method with its changed settings."""
KEY = tuple(column for column in COLUMNS if column != "held_out_divergence")
UNSAID = {"model": "minilm", "seed": 0}
"""Columns that older files lack, with the values that their rows are taken to have."""
TAKEN = re.compile(r"\+*((calibration|model|task)\..+|calibration|model|seed)")
"""Names of the options for `--set` that change the divergence."""
EXAMPLES, SEED, TEMPERATURE = 300, 77, 2.0


def unseen(task, tokenizer, calibration: CalibrationSet) -> CalibrationSet:
    """Return up to `EXAMPLES` examples of the training set that are not in the calibration set, drawn with `SEED`."""
    training = task.training(tokenizer)
    drawn = {tuple(example["input_ids"]) for example in calibration.examples}
    rows = (training[int(row)] for row in np.random.default_rng(SEED).permutation(len(training)))
    some = [
        row
        for row, _ in zip((row for row in rows if tuple(row["input_ids"]) not in drawn), range(EXAMPLES), strict=False)
    ]
    return calibration_set(some, task, tokenizer, labels=False)


def checked(name: str, methods: list[str], overrides: list[str]) -> tuple[CellConfig, list[tuple[Method, Precision]]]:
    """Return the config of a task, and each method with the precision of its passes.

    Args:
        name: name of the task.
        methods: methods with changed settings, as texts for `method_and_precision`.
        overrides: options as for run.py.

    Raises:
        UserError: a setting or method is wrong, or an override would be ignored.
    """
    remedy = "give calibration.*, model.*, task.* or seed; tasks, methods and the share are options of their own"
    refuse_others(overrides, TAKEN, "--set ", remedy)
    config = configured([f"task={name}", *overrides])
    if config.calibration.file:
        raise UserError("calibration.file can't be held out from: leave it out, examples are drawn here")
    pruners = [method_and_precision(method) for method in methods]
    for pruner, precision in pruners:
        pruner.check_measure("flops")
        if precision == "reduced":
            check_reduced(torch.device("cpu"), torch.float32)
    return config, pruners


def measure(
    stage: str, methods: list[str], reduction: float, config: CellConfig, pruners: list[tuple[Method, Precision]]
) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for each method on one task; the methods share the measurements that do not depend on their settings.

    Args:
        stage: the value of the column `stage`.
        methods: the values of the column `settings`, one for each method.
        reduction: share of FLOPs to remove.
        config, pruners: the result of `checked`.

    Raises:
        UserError: the data or the checkpoint are wrong, or a method can't prune the model.
    """
    task = config.task.build()
    checkpoint = find_checkpoint(task, config.model.encoder, config.model.pretrained, config.model.checkpoint)
    tokenizer, model = load_tokenizer(checkpoint.folder), load_model(checkpoint.folder, task)
    check_padding(checkpoint.folder, model, tokenizer, task)
    labels = any("labels" in pruner.needs for pruner, _ in pruners)
    calibration = draw_calibration(task, tokenizer, config.calibration, config.seed, labels)
    tokens = calibration.tokens if config.calibration.examples else config.calibration.tokens
    fresh = unseen(task, tokenizer, calibration)
    data = {precision: PruningData(calibration, precision=precision) for precision in PRECISIONS}
    budget = FlopsBudget(reduction, flops_length(False, task, tokenizer, calibration))
    for method, (pruner, precision) in zip(
        tqdm(methods, desc=config.task.name, unit="method", disable=None), pruners, strict=True
    ):
        outcome = pruner.prune(Job(model, task.objective, data[precision], budget))
        divergence = held_out_divergence(outcome.model, model, task.objective, fresh, TEMPERATURE)
        values = (stage, config.task.name, reduction, tokens, method, divergence, config.model.name, config.seed)
        yield dict(zip(COLUMNS, values, strict=True))


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", help="a name for all rows that are compared with each other")
    parser.add_argument("methods", nargs="+", help="kprune_plus, kprune_plus:floor=0.3, kprune:lambdas=[0.02], ...")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=["mrpc", "stsb", "sst2"])
    parser.add_argument("--flops-reduction", type=float, default=0.8)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="OVERRIDE", help="as for run.py: calibration.tokens=10000"
    )
    parser.add_argument("--output", type=reachable, default=Path("results/held_out.csv"))
    options = parser.parse_args()
    FlopsBudget(options.flops_reduction, 1.0)
    measurements.make_room(options.output, COLUMNS, UNSAID)
    given = ["model=minilm", *options.set]
    of_tasks = [
        checked(task, options.methods, given) for task in options.tasks
    ]  # all are checked before the first is measured
    for config, pruners in of_tasks:
        for row in measure(options.stage, options.methods, options.flops_reduction, config, pruners):
            measurements.put(options.output, COLUMNS, KEY, [row], UNSAID)
            print(",".join(map(str, row.values())), flush=True)
    print(f"results: {options.output}")


if __name__ == "__main__":
    sys.exit(main())
