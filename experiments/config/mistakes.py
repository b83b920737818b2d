"""Collecting all mistakes in a config, so that they are reported together."""

from collections.abc import Iterator
from contextlib import contextmanager

from kprune.errors import UserError


class Mistakes(UserError):
    """Several mistakes that the user can mend; the message has a line for each mistake."""


class Collected:
    """The mistakes found so far, in the order in which they were found; an equal line is kept once."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}

    def add(self, line: str) -> None:
        self.lines[line] = None

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Collect the message of a UserError that the `with` block raises, and continue after the block."""
        try:
            yield
        except UserError as error:
            for line in str(error).splitlines():
                self.add(line)

    def tell(self) -> None:
        """Raise the mistakes found so far, if there are any.

        Raises:
            UserError: there is one mistake; if there are several, it is a `Mistakes`.
        """
        if self.lines:
            raise (UserError if len(self.lines) == 1 else Mistakes)("\n".join(self.lines))
