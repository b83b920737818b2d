"""Run one cell, or a sweep of them: `python run.py +experiment=squad_80pct`, `python run.py -m method=kprune,kprune_official`."""

import os
import re
import shlex
import sys
import time

# Hydra then raises in place of printing, so that a wrong config is one line here as any other wrong input is.
os.environ["HYDRA_FULL_ERROR"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hydra  # noqa: E402
from hydra.core.hydra_config import HydraConfig  # noqa: E402
from hydra.errors import HydraException  # noqa: E402
from hydra.types import RunMode  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402
from omegaconf.errors import OmegaConfBaseException  # noqa: E402

from kprune.errors import UserError  # noqa: E402

SWEEP_GROUP = time.strftime("sweep-%Y%m%d-%H%M%S")
failed: list[str] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(config: DictConfig) -> None:
    from experiments.composing import file_defaults
    from experiments.runner import evaluate_saved, run_cell

    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    overrides = list(HydraConfig.get().overrides.task)
    settings = OmegaConf.to_container(config, resolve=True)
    try:
        if settings["evaluate"]:
            evaluate_saved(settings)
        else:
            choices = HydraConfig.get().runtime.choices
            command = shlex.join(["python", "run.py", *overrides])
            defaults = file_defaults(choices.method, choices.calibration)
            run_cell(settings, defaults, SWEEP_GROUP if sweep else "single", sweep, command)
    except UserError as error:
        failed.append(f"{' '.join(overrides)}: {error}" if sweep else str(error))
        if sweep:
            print(f"failed: {failed[-1]}", file=sys.stderr)


def quoted(argument: str) -> str:
    """Hydra's grammar ends a value at `=`, which the folders of cells have in their names."""
    name, _, value = argument.partition("=")
    path = re.fullmatch(r"evaluate|outputs|calibration\.file|model\.checkpoint|task\.(train|evaluation)_file", name)
    return f"{name}='{value}'" if path and re.search(r"[=+ ()]", value) and value[0] not in "'\"" else argument


def main() -> int:
    sys.argv[1:] = map(quoted, sys.argv[1:])
    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
