"""A cell's pruned model on disk, and its score once more."""

from pathlib import Path
from typing import Any

from experiments.cell.model_card import model_card
from experiments.config.settings import check_settings
from experiments.inputs.checkpoints import load_model, load_tokenizer
from experiments.inputs.subject import Subject, pick_device
from experiments.scoring.evaluation import evaluate
from experiments.store import results
from experiments.tasks import Task, build_task
from kprune.contract import Outcome
from kprune.errors import UserError


def save_model(
    folder: Path, outcome: Outcome, subject: Subject, record: results.Result, config: dict[str, Any], command: str
) -> None:
    """The pruned model, with its card and what is needed to score it again."""
    if outcome.count_units:
        print(f"method {record.method} decides for each input what it computes: there is no smaller model to save")
        return
    card = model_card(record, subject.task.auto_class.__name__, config["format"], command)
    outcome.save(folder, subject.tokenizer, card, config["format"], config["onnx"])
    results.write_json(folder / "kprune.json", {"task": record.config["task"], "score": record.score})


def evaluate_saved(config: dict[str, Any]) -> float:
    """Score a saved model, pruned or dense, on the task it was pruned for."""
    check_settings(config)
    folder = Path(config["evaluate"])
    task = saved_task(folder / "kprune.json", config)
    device = pick_device(config["device"])
    score = evaluate(load_model(folder, task).to(device), task, load_tokenizer(folder), device)
    print(f"{folder}: {task.name} {task.metric} {score:.2f}")
    return score


def saved_task(record: Path, config: dict[str, Any]) -> Task:
    """The task of a saved model's record; the config's where there is none, as beside a dense model.

    Raises:
        UserError: the record is damaged.
    """
    if not record.is_file():
        print(f"{record.parent} does not say what its task is: scored on task={config['task']['name']}")
        return build_task(config["task"])
    saved = results.read_json(record)
    try:
        check_settings(config | {"task": saved.get("task") if isinstance(saved, dict) else None})
        return build_task(saved["task"])
    except UserError as error:
        raise UserError(f"{record} is damaged ({error}): save the model again") from error
