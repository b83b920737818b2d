"""Checkpoints of tiny models in folders, and as much of a task as loading them asks for."""

import json

import pytest

from experiments.inputs.checkpoints import load_model
from experiments.tasks import Task
from kprune.errors import UserError
from kprune.objectives import Classification, Regression, Span
from kprune.quiet import quiet_transformers


class StubTask:
    """As much of a task as loading asks for."""

    finetuning, fine_tuned, generates, fit, architectures = None, True, False, Task.fit, Task.architectures
    wanted_model = Task.wanted_model

    def __init__(self, name="tiny", label_names=("a", "b", "c"), span=False, max_length=32):
        self.name, self.max_length, self.span = name, max_length, span
        self.label_names = None if span else list(label_names)
        self.num_labels = None if span else len(self.label_names)
        self.objective = Span() if span else Regression() if self.num_labels == 1 else Classification()


def save(model, folder):
    with quiet_transformers():
        model.save_pretrained(folder)
    return folder


def edit_config(folder, **entries):
    config = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder, task, *words):
    with pytest.raises(UserError) as error:
        load_model(folder, task)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
