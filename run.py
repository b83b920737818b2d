"""Run one cell, or a sweep of them: `python run.py +experiment=squad_80pct`, `python run.py -m method=kprune,kprune_official`."""

import contextlib
import os
import re
import shlex
import sys
import time
import traceback
from typing import Any

# With it, Hydra raises its errors and does not print them: `main` prints one line for a wrong config, as for any wrong input.
os.environ["HYDRA_FULL_ERROR"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hydra  # noqa: E402
from hydra._internal.hydra import Hydra  # noqa: E402
from hydra.core.hydra_config import HydraConfig  # noqa: E402
from hydra.core.utils import JobReturn  # noqa: E402
from hydra.errors import HydraException  # noqa: E402
from hydra.types import RunMode  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402
from omegaconf.errors import OmegaConfBaseException  # noqa: E402

from experiments.config.composing import explained, file_defaults, is_of_a_group, quoted
from kprune.errors import UserError, command

SWEEP_GROUP = time.strftime("sweep-%Y%m%d-%H%M%S")
failed: list[str] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(composed: DictConfig) -> Any:
    """Run one cell, or score the saved model of `evaluate`.

    Returns:
        The record of the cell, or the score of a saved model. In a sweep, the message of a cell that failed: a launcher brings it
        back from another process. None if a single run failed, whose message is then in `failed`, and in a process that has no
        result.

    Raises:
        Exception: a single run failed, and not because of its input.
    """
    from experiments.cell.runner import run_cell
    from experiments.cell.saved import evaluate_saved
    from experiments.config.cell import cell_config
    from kprune.processes import rank

    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task)  # as typed: ${...} is not resolved
    try:
        choices = HydraConfig.get().runtime.choices
        defaults = file_defaults(choices.method, choices.calibration)
        config = cell_config(OmegaConf.to_container(composed, resolve=True), defaults, sweep, overrides)
        if config.evaluate:
            return evaluate_saved(config) if rank() == 0 else None
        return run_cell(config, SWEEP_GROUP if sweep else "single", shlex.join(["python", "run.py", *overrides]))
    except (UserError, OmegaConfBaseException) as error:
        lines = explained(error).splitlines()
        if not sweep:
            failed.extend(lines)
            return None
    except Exception as error:  # whatever went wrong, the other cells of a sweep go on
        if not sweep:
            raise
        traceback.print_exc()
        lines = [f"{type(error).__name__}: {error}"]
    message = "\n".join(f"{' '.join(overrides)}: {line}" for line in lines)
    for line in message.splitlines():
        print(f"failed: {line}", file=sys.stderr)
    return message


def finish_sweep(returns: list[JobReturn]) -> None:
    """Add the messages of the cells that failed to `failed`, and track a table of the records of the others."""
    from experiments.cell.tracking import track_sweep
    from experiments.store.record import Record

    for done in returns:
        if isinstance(done.return_value, str):
            failed.extend(done.return_value.splitlines())
    records = [done.return_value for done in returns if isinstance(done.return_value, Record)]
    if records:
        config = returns[0].cfg
        track_sweep(records, SWEEP_GROUP, config.tracking.mode, config.outputs)


def multirun(self: Hydra, *arguments, **settings) -> Any:
    """Run the sweep as Hydra does, and read what its jobs return, which Hydra throws away.

    Raises:
        UserError: the sweep's folder is not writable.
    """
    try:
        batches = hydras_multirun(self, *arguments, **settings)
    except HydraException:  # some of these are OSErrors, too
        raise
    except OSError as error:  # of the sweep's own folder: `job` catches the errors of a cell
        raise UserError(f"{error.filename} is not writable ({error.strerror}): give another outputs=FOLDER") from error
    finish_sweep([done for batch in batches for done in batch])
    return batches


hydras_multirun, Hydra.multirun = Hydra.multirun, multirun


def run_together(sweep: bool, helper: bool) -> None:
    """Run one cell in the processes that torchrun has started; only the first of them prints.

    Args:
        sweep: whether a sweep is asked for.
        helper: whether this is not the first process; a helper leaves the refusal of a sweep to the first one.

    Raises:
        UserError: a sweep is asked for.
    """
    if sweep:
        if helper:
            return
        raise UserError("torchrun runs one cell with several processes: leave -m out")
    from kprune.processes import started_by_torchrun

    with (
        started_by_torchrun(),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere if helper else sys.stdout),
    ):
        job()


@command
def main() -> int:
    sweep = any(argument in ("-m", "--multirun") for argument in sys.argv[1:])
    sys.argv[1:] = [quoted(argument, sweep) for argument in sys.argv[1:]]
    several = "TORCHELASTIC_RUN_ID" in os.environ and os.environ["WORLD_SIZE"] != "1"
    launcher = next((argument for argument in sys.argv[1:] if argument.startswith("+launcher=")), None)
    if launcher and not sweep:
        raise UserError(f"{launcher} runs the cells of a sweep: add -m, or leave the launcher out")
    helper = several and os.environ["RANK"] != "0"
    try:
        if several:
            run_together(sweep, helper)
        else:
            job()
    except (HydraException, OmegaConfBaseException, UserError) as error:
        message = explained(error)
        missing = re.search(r"find 'hydra/launcher/(joblib|submitit|ray)", message)
        failed.append(f"{message}: pip install -e '.[{missing[1]}]'" if missing else message)
    except ValueError as error:
        if not is_of_a_group(error):
            raise
        failed.append(explained(error))
    except KeyboardInterrupt:
        print("interrupted: give the same command again; trainings go on from where they stopped", file=sys.stderr)
        return 130
    if failed:
        raise UserError("\n".join(f"process {os.environ['RANK']}: {line}" if helper else line for line in failed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
