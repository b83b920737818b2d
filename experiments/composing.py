"""A cell's config outside Hydra's own command line, and what its config files say by themselves."""

from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from kprune.errors import UserError

CONF = Path(__file__).parents[1] / "conf"


@cache
def file_defaults(method: str, calibration: str) -> dict[str, Any]:
    """conf/method/<method>.yaml and conf/calibration/<calibration>.yaml: what differs from them names a cell's variant."""
    files = {"method": method, "calibration": calibration}
    return {room: OmegaConf.to_container(OmegaConf.load(CONF / room / f"{name}.yaml")) for room, name in files.items()}


def compose_cell(overrides: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `python run.py OVERRIDES` hands to `run_cell`: the config as plain values, and the files' own settings.

    Raises:
        UserError: an override is wrong.
    """
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides, return_hydra_config=True)
    except HydraException as error:
        raise UserError(f"{' '.join(overrides)}: {' '.join(str(error).split())}") from error
    choices = config.hydra.runtime.choices
    defaults = file_defaults(choices.method, choices.calibration)
    with_hydra_left_out = {key: config[key] for key in config if key != "hydra"}
    return OmegaConf.to_container(OmegaConf.create(with_hydra_left_out), resolve=True), defaults
