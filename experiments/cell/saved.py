"""Saving a cell's pruned model, and scoring a saved model again."""

import copy
from pathlib import Path
from typing import Any

import torch

from experiments.cell.identity import sha256_of
from experiments.cell.model_card import model_card
from experiments.config.cell import CellConfig
from experiments.config.evaluating import FILES, refuse_unused, task_beside
from experiments.config.kinds import shown
from experiments.config.reading import check_task
from experiments.inputs.checkpoints import check_padding, inverse, load_model, load_tokenizer, output_order, reorder
from experiments.inputs.hub import find_model
from experiments.inputs.subject import Subject, pick_device
from experiments.scoring.evaluation import evaluate
from experiments.store import results
from experiments.store.record import Record
from experiments.tasks import Task
from kprune.checkpoint import save
from kprune.checkpoint.onnx import NAME as ONNX
from kprune.checkpoint.onnx import Onnx
from kprune.contract import Outcome
from kprune.errors import UserError

RECORD = "kprune.json"


def save_model(
    folder: Path,
    record: Record,
    outcome: Outcome,
    subject: Subject,
    tokenizer: Any,
    format: str,
    onnx: Onnx,
    command: str,
) -> None:
    """Write the pruned model, its tokenizer, its card, and a record (`RECORD`) by which it can be scored again.

    Nothing is written if the method decides for each input which units it computes; a printed line tells so.
    """
    if outcome.count_units:
        print(f"method {record.method} decides for each input what it computes: there is no smaller model to save")
        return
    card = model_card(record, subject.task.objective.auto_class, format, command)
    model, outputs = outcome.model, output_order(subject.checkpoint.folder, subject.task)
    if outputs:  # back to the checkpoint's order, so that the model can replace the checkpoint
        model = copy.deepcopy(model)
        reorder(model, inverse(outputs))
    save(model, folder, tokenizer, card, format, outcome.plan, onnx)
    cell = {name: value for name, value in record.config.items() if name != "task"}
    task = _with_names(record.config["task"], subject.task)
    content = {"task": task, "score": record.score, "cell": cell, "format": format, "onnx": onnx}
    results.write_json(folder / RECORD, content)


def missing_of(folder: Path, format: str, onnx: Onnx) -> str:
    """Return in words, after a comma, how the saved model of a finished cell differs from the requested one; "" if it does not.

    Args:
        folder: the folder of the saved model; it may be missing.
        format, onnx: as requested.

    Raises:
        UserError: the record in the folder is damaged.
    """
    if not folder.is_dir():
        return ", without a saved model"
    content = results.read_json(folder / RECORD) if (folder / RECORD).is_file() else None
    # Older records lack these entries; they are taken to be as requested.
    told = {"format": format, "onnx": onnx} | (content if isinstance(content, dict) else {})
    if told["format"] != format:
        return f", its model saved as format={told['format']}"
    if not onnx:
        return ""
    if not (folder / ONNX).is_file():
        return f", without {ONNX}"
    return "" if told["onnx"] == onnx else f", its {ONNX} saved with onnx={shown(told['onnx'])}"


def _with_names(settings: dict[str, Any], task: Task) -> dict[str, Any]:
    """Return a task's settings with the names of its classes, so that scoring the model does not need the training data."""
    if settings.get("label_names", ()) is None and task.num_labels and task.num_labels > 1:
        return settings | {"label_names": task.label_names}
    return settings


def evaluate_saved(config: CellConfig) -> float:
    """Return the score of a saved model, pruned or dense, on the task that it was pruned for or on the given one.

    Raises:
        UserError: the folder or its model does not exist or is damaged, an option would be ignored, or the model does not fit the
            task.
    """
    folder = Path(find_model(config.evaluate))
    saved = read_saved(folder / RECORD) if (folder / RECORD).is_file() else None
    refuse_unused(config.given, {**saved["cell"], "task": saved["task"]} if saved else {})
    if saved is None:
        print(f"{folder} does not say what its task is: scored on task={config.task.name}")
    try:
        settings = task_beside(config.task, saved and saved["task"], config.given, _known_files(saved) if saved else {})
    except UserError as error:
        raise UserError(f"{folder}/{RECORD}: {error}") from error
    task = settings.build()
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    model, tokenizer = load_model(folder, task), load_tokenizer(folder)
    check_padding(folder, model, tokenizer, task)
    score = evaluate(model.to(device), task, tokenizer, device)
    print(f"{folder}: {task.name} {task.metric} {score:.2f} ({task.evaluation(tokenizer).split})")
    return score


def read_saved(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries `task` and `cell` of a saved model's record; `cell` is {} if an older record lacks it.

    Raises:
        UserError: the record is damaged.
    """
    saved = results.read_json(path)
    saved = saved if isinstance(saved, dict) else {}
    cell = saved.get("cell")
    try:
        check_task(saved.get("task"))
    except UserError as error:
        reason = "; ".join(str(error).splitlines())
        raise UserError(f"{path} is damaged ({reason}): save the model again") from error
    return {"task": saved["task"], "cell": cell if isinstance(cell, dict) else {}}


def _known_files(saved: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Return for each data file of a saved task whether the file on this machine has the hash in the record.

    The hash shows that the writer of the folder knew the file's contents, so that the folder can't name an arbitrary file.
    """
    known, hashes = {}, saved["cell"].get("contents")
    for name in FILES:
        file = saved["task"].get(name)
        path = Path(file).expanduser() if file else None
        hashed = hashes.get(f"task.{name}") if isinstance(hashes, dict) else None
        known[name] = bool(path and hashed and path.is_file() and sha256_of(path) == hashed)
    return known
