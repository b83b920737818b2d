"""Tasks, built from the plain settings of conf/task/<name>.yaml."""

import importlib
from typing import Any

from experiments.tasks.base import EvaluationSet, Task
from kprune.errors import UserError

KINDS = {
    "glue": "experiments.tasks.glue.GlueTask",
    "squad": "experiments.tasks.squad.SquadTask",
    "similarity": "experiments.tasks.similarity.SimilarityTask",
    "retrieval": "experiments.tasks.retrieval.RetrievalTask",
    "choice": "experiments.tasks.choice.HubChoiceTask",
    "custom_choice": "experiments.tasks.choice.FileChoiceTask",
    "custom_reranking": "experiments.tasks.reranking.FileRerankingTask",
    "custom": "experiments.tasks.custom.CustomTask",
    "tokens": "experiments.tasks.tokens.HubTokenTask",
    "custom_tokens": "experiments.tasks.tokens.FileTokenTask",
    "docstrings": "experiments.tasks.docstrings.DocstringsTask",
    "language": "experiments.tasks.language.HubTextTask",
    "custom_text": "experiments.tasks.language.FileTextTask",
    "masked": "experiments.tasks.masked.HubMaskedTask",
    "custom_masked": "experiments.tasks.masked.FileMaskedTask",
}
"""The class of each `kind` of task; its module is imported when a task of the kind is built."""

__all__ = ["EvaluationSet", "Task", "build_task"]


def build_task(settings: dict[str, Any]) -> Task:
    """Build the task of a config.

    Args:
        settings: `kind` names the class, `finetuning` changes the recipe of fine-tuning, and all others are arguments of the class.

    Raises:
        UserError: the kind is unknown, or a setting is missing, unknown or wrong.
    """
    kind = settings.get("kind")
    if kind not in KINDS:
        raise UserError(f"task.kind={kind} is unknown: give one of {', '.join(KINDS)}")
    module, name = KINDS[kind].rsplit(".", 1)
    arguments = {key: value for key, value in settings.items() if key not in ("kind", "finetuning")}
    try:
        task = getattr(importlib.import_module(module), name)(**arguments)
    except TypeError as error:
        raise UserError(f"task.{settings.get('name')}: {error}: see conf/task/{settings.get('name')}.yaml") from error
    task.finetuning = settings.get("finetuning")
    return task
