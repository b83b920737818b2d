"""Zero-shot accuracy of a language model, dense or pruned, by lm-evaluation-harness.

    python -m experiments.zero_shot MODEL_FOLDER --tasks arc_easy,piqa

This program loads the model and passes it to the harness in memory. It writes a JSON file with the versions of the harness and of each
task, `acc` and `acc_norm` in percent with their standard errors, and the number of examples. It needs the extra `lm-eval`.
"""

import argparse
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from experiments.inputs.checkpoints import load_model, load_tokenizer
from experiments.inputs.hub import find_model
from experiments.inputs.subject import pick_device
from experiments.store.measurements import make_folder
from experiments.store.provenance import versions
from experiments.store.results import write_json
from experiments.tasks.base import Task
from kprune.errors import UserError, command, one_line
from kprune.files import reachable
from kprune.objectives import CausalLM

METRICS = ("acc", "acc_norm")


class ZeroShot(Task):
    """A task with only the attributes that loading a checkpoint reads; any language model fits it."""

    name = "zero-shot"
    fine_tuned = False
    generates = True
    label_names = None
    max_length = 1
    objective = CausalLM()


def zero_shot(
    model: nn.Module,
    tokenizer: Any,
    tasks: list[str],
    tasks_folder: Path | None = None,
    limit: int | None = None,
    batch_size: int = 1,
) -> dict[str, dict[str, Any]]:
    """Return for each task its version, the model's `METRICS` in percent with standard errors, and the number of examples.

    Args:
        model: a language model of transformers.
        tokenizer: its tokenizer.
        tasks: names of tasks of the harness or in `tasks_folder`.
        tasks_folder: folder of further tasks, as the harness's YAML files; None for none.
        limit: the largest number of examples of a task; None for all.
        batch_size: number of examples in a forward pass.

    Raises:
        UserError: the harness is not installed, does not know a task, or can't get the data of a task.
    """
    require_harness()
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=tasks_folder and str(tasks_folder))
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        raise UserError(f"the harness has no task {unknown[0]}: give one of the tasks that `lm_eval ls tasks` lists")
    subject = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    try:
        found = lm_eval.simple_evaluate(
            subject, tasks=tasks, num_fewshot=0, limit=limit, task_manager=manager, log_samples=False, bootstrap_iters=0
        )
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
    ) as error:  # the errors of the harness, datasets and the hub's client
        raise UserError(
            f"{', '.join(tasks)} can't be evaluated ({one_line(error)}): check the task and its data"
        ) from error
    return {name: _scores(name, values, found) for name, values in found["results"].items()}


def require_harness() -> None:
    """Check that lm-evaluation-harness is installed.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed: pip install -e '.[lm-eval]'")


def _scores(name: str, values: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    scores: dict[str, Any] = {"version": found["versions"].get(name)}
    for key, value in values.items():
        metric = key.partition(",")[0]
        if metric in (*METRICS, *(f"{metric}_stderr" for metric in METRICS)) and isinstance(value, float):
            scores[metric] = 100 * value
    return scores | {"examples": found["n-samples"].get(name, {}).get("effective")}


def check_amounts(arguments: argparse.Namespace) -> None:
    """Check the numbers of a command line, and its folder of tasks.

    Raises:
        UserError: a number is below 1, or the folder of tasks does not exist.
    """
    for name in ("limit", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} is no number of examples: give 1 or more")
    if arguments.tasks_folder and not arguments.tasks_folder.is_dir():
        raise UserError(f"--tasks-folder {arguments.tasks_folder} is no folder: give the one of your task files")


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.zero_shot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a checkpoint, dense or pruned, or a hub id")
    parser.add_argument("--tasks", type=lambda text: text.split(","), required=True, metavar="A,B")
    parser.add_argument(
        "--tasks-folder", type=reachable, help="folder of task files of your own, in the harness's form"
    )
    parser.add_argument("--limit", type=int, help="at most so many examples of a task; scores of a part do not compare")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--output", type=reachable, help="JSON file; default: zero_shot.json in the model's folder")
    arguments = parser.parse_args()
    check_amounts(arguments)
    require_harness()
    folder = Path(find_model(arguments.model))
    file = arguments.output or folder / "zero_shot.json"
    make_folder(file)
    device = pick_device(arguments.device)
    model, tokenizer = load_model(folder, ZeroShot()).to(device), load_tokenizer(folder)
    chosen = (arguments.tasks, arguments.tasks_folder, arguments.limit, arguments.batch_size)
    scores = zero_shot(model, tokenizer, *chosen)
    record = {"model": str(folder), "harness": version("lm-eval"), "limit": arguments.limit, "tasks": scores}
    write_json(file, record | {"versions": versions()})
    for name, values in scores.items():
        shown = ", ".join(f"{metric} {values[metric]:.2f}" for metric in METRICS if metric in values)
        print(f"{name} (version {values['version']}, {values['examples']} examples): {shown or 'no accuracy'}")
    print(f"results: {file}")


if __name__ == "__main__":
    sys.exit(main())
