"""A cell's pruned model on disk, and its score once more."""

import copy
from pathlib import Path

from experiments.cell.model_card import model_card
from experiments.config.cell import CellConfig, task_settings
from experiments.config.groups import TaskSettings
from experiments.inputs.checkpoints import inverse, load_model, load_tokenizer, output_order, reorder
from experiments.inputs.subject import Subject, pick_device
from experiments.scoring.evaluation import evaluate
from experiments.store import results
from experiments.store.record import Record
from experiments.tasks import Task
from kprune.checkpoint import save
from kprune.contract import Outcome
from kprune.errors import UserError


def save_model(
    folder: Path, record: Record, outcome: Outcome, subject: Subject, format: str, onnx: bool, command: str
) -> None:
    """Write the pruned model, with its card and what is needed to score it again."""
    if outcome.count_units:
        print(f"method {record.method} decides for each input what it computes: there is no smaller model to save")
        return
    card = model_card(record, subject.task.objective.auto_class, format, command)
    model, outputs = outcome.model, output_order(subject.checkpoint.folder, subject.task)
    if outputs:  # in the checkpoint's order, so that it can stand in the checkpoint's place
        model = copy.deepcopy(model)
        reorder(model, inverse(outputs))
    save(model, folder, subject.tokenizer, card, format, outcome.plan, onnx)
    results.write_json(folder / "kprune.json", {"task": record.config["task"], "score": record.score})


def evaluate_saved(config: CellConfig) -> float:
    """Score a saved model, pruned or dense, on the task it was pruned for."""
    folder = Path(config.evaluate)
    task = saved_task(folder / "kprune.json", config.task)
    device = pick_device(config.device)
    score = evaluate(load_model(folder, task).to(device), task, load_tokenizer(folder), device)
    print(f"{folder}: {task.name} {task.metric} {score:.2f}")
    return score


def saved_task(record: Path, otherwise: TaskSettings) -> Task:
    """Build the task of a saved model's record; another one if there is none, as beside a dense model.

    Raises:
        UserError: the record is damaged.
    """
    if not record.is_file():
        print(f"{record.parent} does not say what its task is: scored on task={otherwise.name}")
        return otherwise.build()
    saved = results.read_json(record)
    try:
        return task_settings(saved.get("task") if isinstance(saved, dict) else None).build()
    except UserError as error:
        reason = "; ".join(str(error).splitlines())
        raise UserError(f"{record} is damaged ({reason}): save the model again") from error
