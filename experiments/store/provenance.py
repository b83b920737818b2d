"""The software that made a result: versions of packages and the commit of this checkout."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("kprune", "torch", "transformers", "datasets", "numpy")


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of `PACKAGES`; None for a package that is not installed."""
    return {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the commit of this checkout, with `-dirty` if tracked files are changed; None outside a checkout or without git."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
