"""Finding data sets and models: in a folder, else in the mirror, else on the hub. No other data or model is silently used instead."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import datasets
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError

from kprune.errors import UserError, one_line

HUB_PATIENCE = 15.0
"""Seconds to wait for an answer of the hub; with the search of the hub's local cache, the whole takes less than 20 seconds."""


def find_dataset(hub_id: str, config: str, files: Mapping[str, str] | None = None) -> datasets.DatasetDict:
    """Return the splits of one configuration of a data set, from the mirror or the hub.

    Args:
        hub_id: the name of the data set, org/name.
        config: the name of the configuration.
        files: by split, the only JSON-lines file to read; if the mirror lacks these files, the configuration is read as its README
            describes it.

    Raises:
        UserError: the data set is neither in the mirror nor on a reachable hub, it does not have the configuration, or its files
            can't be read.
    """
    folder, wanted = _in_mirror(hub_id), tuple((files or {}).values()) or (f"{config}/*",)
    if folder is None:
        folder = _from_hub(hub_id, "dataset", ("README.md", *wanted), wanted[0])
    there = {split: str(folder / file) for split, file in (files or {}).items() if (folder / file).is_file()}
    try:
        with _quiet_datasets():
            if there:
                return datasets.load_dataset("json", data_files=there)
            return datasets.load_dataset(str(folder), config)
    except Exception as error:  # datasets raises a different type for each way a folder can be wrong
        known = _configs(folder)
        if known and config not in known:
            raise UserError(
                f"{hub_id} has no configuration {config} in {folder}, but {', '.join(known)}: give task.config={known[0]}, or "
                "put the other one there"
            ) from error
        reason = one_line(error.__cause__ or error)
        raise UserError(
            f"{folder} holds no readable data set {hub_id} ({config}): {reason}; "
            f"check its README's configs and its parquet files"
        ) from error


def split_with_columns(data: datasets.DatasetDict, source: str, split: str, columns: list[str]) -> datasets.Dataset:
    """Return one split of `data`; `source` is the name of the data, for messages.

    Raises:
        UserError: the split does not exist, or it lacks one of `columns`.
    """
    if split not in data:
        raise UserError(f"{source} has no split {split}: it has {', '.join(data)}")
    for column in columns:
        if column not in data[split].column_names:
            raise UserError(f"{source} has no column {column}: it has {', '.join(data[split].column_names)}")
    return data[split]


def find_model(id_or_path: str) -> str:
    """Return the local folder of a checkpoint: the given folder if it exists, else the mirror's, else a download from the hub.

    Raises:
        UserError: the checkpoint is no folder, not in the mirror and not on a reachable hub, or `KPRUNE_MIRROR` is no folder.
    """
    folder = local_model(id_or_path)
    if folder is not None:
        return str(folder)
    files = ("*.json", "*.txt", "*.model", "*.py", "*.safetensors")
    return str(_from_hub(id_or_path, "model", files, "*.safetensors"))


def local_model(id_or_path: str) -> Path | None:
    """Return the folder of a checkpoint on this machine: the given folder, else the mirror's; None if neither exists.

    Raises:
        UserError: `KPRUNE_MIRROR` is no folder.
    """
    folder = Path(id_or_path).expanduser()
    return folder if folder.is_dir() else _in_mirror(id_or_path)


def _configs(folder: Path) -> list[str]:
    """Return the configurations that a data set's README names; [] if the README can't be read."""
    try:
        with _quiet_datasets():
            return datasets.get_dataset_config_names(str(folder))
    except Exception:  # the caller says what is wrong with the folder
        return []


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Switch the progress bars and the log of `datasets` off during a block; errors are still raised."""
    bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _is_hub_id(name: str) -> bool:
    """Tell whether a name is <org>/<name>, or one word as for the hub's oldest models; a path that leaves the mirror is not."""
    parts = name.split("/")
    return len(parts) <= 2 and all(part and not part.startswith((".", "~")) for part in parts)


def _in_mirror(name: str) -> Path | None:
    mirror = os.environ.get("KPRUNE_MIRROR")
    if not mirror or not _is_hub_id(name):
        return None
    if not Path(mirror).expanduser().is_dir():
        raise UserError(f"KPRUNE_MIRROR={mirror} is not a folder: give the mirror's, or unset it")
    folder = Path(mirror).expanduser() / name
    return folder if folder.is_dir() else None


def _from_hub(name: str, kind: str, files: tuple[str, ...], payload: str) -> Path:
    """Return the folder of a hub repository: a download or, if the hub can't be reached, an earlier download in the hub's cache.

    Args:
        name: the id of the repository.
        kind: "model" or "dataset".
        files: patterns of the files to download.
        payload: pattern of a file that an earlier download must have.

    Raises:
        UserError: the name is no id, or the repository is neither on a reachable hub nor in the hub's cache.
    """
    if not _is_hub_id(name):
        raise UserError(f"no {kind} folder {name}: check the path (it is not a hub id of the form org/name either)")
    request = {"repo_id": name, "repo_type": kind, "allow_patterns": list(files)}
    try:
        if constants.is_offline_mode():
            raise ConnectionError("HF_HUB_OFFLINE is set")
        # Without a network, a download is retried for a long time and prints each retry; this request fails at once.
        _within(HUB_PATIENCE, lambda: huggingface_hub.HfApi().repo_info(name, repo_type=kind, timeout=HUB_PATIENCE))
        return Path(huggingface_hub.snapshot_download(**request))
    except Exception as error:  # network errors come from httpx, the hub's client and the operating system alike
        missing = isinstance(error, RepositoryNotFoundError)  # raised for a gated repository, too
        reason = f"has no public {name}" if missing else f"was not reached: {one_line(error)}"
        cached = _cached(request, payload)
        if cached is not None:
            return cached
        raise _not_found(name, kind, reason) from error


def _cached(request: dict, payload: str) -> Path | None:
    """Return the folder of an earlier download of the same id in the hub client's cache; None if it lacks `payload`."""
    try:
        folder = Path(huggingface_hub.snapshot_download(**request, local_files_only=True))
    except Exception:  # not cached: the caller raises the error
        return None
    return folder if any(folder.glob(payload)) else None


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Run `call` and wait at most `seconds`, because the timeout of a request does not limit every step, such as resolving names.

    Raises:
        TimeoutError: `call` takes longer.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if raised:
        raise raised[0]


def _not_found(name: str, kind: str, reason: str) -> UserError:
    mirror = os.environ.get("KPRUNE_MIRROR")
    looked = f"no folder {Path(mirror).expanduser() / name}" if mirror else "KPRUNE_MIRROR is not set"
    return UserError(
        f"{kind} {name} not found: {looked}, and the hub {constants.ENDPOINT} {reason}; "
        f"put it at <KPRUNE_MIRROR>/{name} or connect to the hub"
    )
