"""What a case is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """One option of a dimension.

    Attributes:
        apply: what it does; its arguments hang on the dimension.
        refused: matches the one line that it ends in; None if it ends in a right result.
        may: matches the one line that it may end in, if that hangs on the model.
        fits: whether a case of this family and auto class can have it.
    """

    name: str
    apply: Callable[..., Any]
    refused: str | None = None
    may: str | None = None
    fits: Callable[[str, str], bool] = lambda family, auto: True


def same(model: Any) -> None:
    pass


def options(*entries: Option) -> tuple[Option, ...]:
    return entries
