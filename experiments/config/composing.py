"""Composing a cell's config without Hydra's command line, reading single config files, and wording Hydra's errors."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from kprune.errors import UserError
from kprune.files import reachable

CONF = Path(__file__).parents[2] / "conf"
PATHS = re.compile(
    r"[+]*(evaluate|outputs|vocabulary|calibration\.(?:file|data)|model\.(checkpoint|pretrained)|task\.(train|evaluation)_file)"
)
"""Options whose value may be a path."""
ODD = re.compile(r"[^\w/.+:%@-]|^[^\w/.]", re.ASCII)
"""Characters in a path because of which Hydra reads the path only in quotes."""
ADDED = ("experiment", "launcher")
"""Groups that are in the config only if an option with a plus sign adds them."""
SOURCE = ("kind", "hub_id", "config")
"""Settings of a task that say which data the task reads."""


@cache
def default_of(setting: str) -> Any:
    """Return the value that conf/config.yaml gives to an ungrouped setting."""
    return yaml.safe_load((CONF / "config.yaml").read_text())[setting]


@cache
def file_settings(room: str, name: str) -> dict[str, Any]:
    """Return the settings of conf/<room>/<name>.yaml as plain values, with those of the files in its defaults list.

    Raises:
        UserError: the file does not exist, or Hydra can't compose it.
    """
    # In a job of run.py, Hydra reads conf/ already.
    reading = GlobalHydra.instance().is_initialized()
    try:
        with nullcontext() if reading else initialize_config_dir(str(CONF), version_base="1.3"):
            return OmegaConf.to_container(compose("config", [f"{room}={name}"])[room])
    except HydraException as error:
        raise UserError(explained(error)) from error


def task_file_of(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of a file of conf/task that reads the same data as the given task; None if no file does.

    If several files read this data, the file with the task's name comes first.
    """
    names = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
    for name in sorted(names, key=lambda name: name != settings.get("name")):
        content = file_settings("task", name)
        if all(content.get(key) == settings.get(key) for key in SOURCE):
            return content
    return None


def file_defaults(method: str, calibration: str) -> dict[str, Any]:
    """Return the settings of the config files of a method and a calibration; settings that differ from them make a cell's variant."""
    return {"method": file_settings("method", method), "calibration": file_settings("calibration", calibration)}


def explained(error: Exception) -> str:
    """Return the message for an error in a config: in this project's words where Hydra's words mislead, else in Hydra's words."""
    if isinstance(error, UserError):
        return str(error)
    message = " ".join(str(error).split()).split(" Config search path")[0]
    if is_of_a_group(error):
        return f"{message}: name a file of conf/, as in method=kprune"
    if isinstance(error, OverrideParseException):
        name, sign, value = error.override.partition("=")
        if not sign:
            return f"{name} has no value: write {name}=VALUE, without blanks around the ="
        return f"""{error.override} can't be read: put the value in quotes, '{name}="{value}"'"""
    if unknown := re.search(r"token recognition error at: '(.*)'", message):
        return f"""an option has {unknown[1]}, which is read only in quotes: put the value in quotes, as in 'task.label="größe"'"""
    if twice := re.match(r"Multiple values for (\w+)\. .*: (\w+)'", message):
        return f"{twice[1]}={twice[2]} is given beside another {twice[1]}: leave one of them out"
    if setting := re.match(r"Could not override '([^']+)'", message):
        room, _, leaf = setting[1].partition(".")
        if room in ADDED and (option := re.search(r"use (\+\S+)$", message)):
            return f"{room} is not in the config until it is added: write {option[1]}"
        if room in ("task", "method") and (names := _files_with(room, leaf)):
            return (
                f"{setting[1]} is no setting of this {room}: it is one of {room}={', '.join(names)}; in a sweep over these, write "
                f"++{setting[1]}="
            )
        return (
            f"{setting[1]} is unknown: use a setting of conf/{f'{room}/' if (CONF / room).is_dir() else 'config.yaml'}"
        )
    if file := re.search(r"Could not find '(?!hydra/)(\w+)/([\w/]+)' Available options in '[\w/]+': (.+)", message):
        return f"{file[1]}={file[2]} is unknown: use {file[3].replace(' ', ', ')}"
    return message


def _files_with(group: str, setting: str) -> list[str]:
    """Return the names of a group's files that have a setting, such as recipe.epochs."""
    files = sorted((CONF / group).glob("*.yaml"))
    return [file.stem for file in files if _has(yaml.safe_load(file.read_text(encoding="utf-8")), setting)]


def _has(content: Any, setting: str) -> bool:
    first, _, rest = setting.partition(".")
    return isinstance(content, dict) and first in content and (not rest or _has(content[first], rest))


def is_of_a_group(error: Exception) -> bool:
    """Tell whether an error is about a group's value that names no file; Hydra raises a plain ValueError for it."""
    return isinstance(error, ValueError) and str(error).startswith("Config group override")


def quoted(argument: str, sweep: bool = False) -> str:
    """Return an option in Hydra's grammar: a path is put in quotes if it has a character, such as `=` or a blank, that ends a value.

    `~` becomes the home folder, because the shell does not expand it after `=`. In a sweep, commas separate paths, unless a file
    exists whose name is the whole value.
    """
    name, _, value = argument.partition("=")
    if not PATHS.fullmatch(name) or value in ("", "null") or value[0] in "'\"" or "${" in value:
        return argument
    whole = not sweep or os.path.exists(os.path.expanduser(value))
    paths = [str(reachable(path)) for path in ([value] if whole else value.split(","))]
    return f"{name}=" + ",".join(f"'{_escaped(path)}'" if ODD.search(path) else path for path in paths)


def _escaped(path: str) -> str:
    """Escape quotes, and the backslashes before them or at the end."""
    return re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), path)


def compose_cell(overrides: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compose the config of `python run.py OVERRIDES`, as plain values, and return it with the defaults of `file_defaults`.

    Raises:
        UserError: an override is wrong.
    """
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", [quoted(override) for override in overrides], return_hydra_config=True)
        choices = config.hydra.runtime.choices
        with open_dict(config):
            del config["hydra"]
        settings = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{' '.join(overrides)}: {explained(error)}") from error
    return settings, file_defaults(choices.method, choices.calibration)


def refuse_others(overrides: Sequence[str], taken: re.Pattern[str], prefix: str, remedy: str) -> None:
    """Refuse overrides that would have no effect.

    Args:
        taken: matches the names of the options that have an effect.
        prefix: the characters that the user types before an override; for the message.
        remedy: the end of the message.

    Raises:
        UserError: the name of an override does not match `taken`.
    """
    for override in overrides:
        if not taken.fullmatch(override.partition("=")[0]):
            raise UserError(f"{prefix}{override} would be ignored: {remedy}")
