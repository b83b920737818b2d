"""Readers of the values of options, for `type` of an argument: if a text is no such value, the error says what is wanted."""

import argparse
from collections.abc import Callable
from pathlib import Path

from kprune.errors import UserError
from kprune.files import reachable
from kprune.target import Target

THREADS = 1024
"""The largest number of threads that is accepted."""
CALIBRATION = "calibration"
"""What --vocabulary may name beside a file."""


def _number(text: str, kind: Callable[[str], float], fits: Callable[[float], bool], wanted: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
    return value


def vocabulary(text: str) -> Path | str:
    """Return "calibration" or a path."""
    return text if text == CALIBRATION else reachable(text)


def share(text: str) -> float:
    """Return a number between 0 and 1."""
    return _number(text, float, lambda value: 0 < value < 1, "a share between 0 and 1, such as 0.8")


def factor(text: str) -> float:
    """Return a number above 1."""
    return _number(text, float, lambda value: 1 < value < float("inf"), "a factor above 1, such as 3")


def zeros(text: str) -> float | str:
    """Return a share of the weights, or a pattern such as "2:4"."""
    try:
        asked = text if ":" in text else float(text)
        Target.of_sparsity(asked)
    except (ValueError, UserError) as error:
        raise argparse.ArgumentTypeError(
            f"{text} is neither a share of the weights, such as 0.5, nor a pattern, such as 2:4"
        ) from error
    return asked


def count(text: str) -> int:
    """Return a whole number above 0 that torch can have, in 64 bits."""
    return int(_number(text, int, lambda value: 1 <= value < 2**63, "a whole number above 0 and below 2^63"))


def threads(text: str) -> int:
    """Return a number of threads up to `THREADS`; with many more, torch ends the process."""
    return int(_number(text, int, lambda value: 1 <= value <= THREADS, f"a whole number from 1 to {THREADS:,}"))


def whole(text: str) -> int:
    """Return a whole number, 0 or above."""
    return int(_number(text, int, lambda value: value >= 0, "a whole number, 0 or above"))
