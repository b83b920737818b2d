"""Everything that is wrong with a config, told at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from kprune.errors import UserError


class Mistakes(UserError):
    """Several things the user can mend; the message has a line for each."""


class Collected:
    """Mistakes as they are found, each once."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}

    def add(self, line: str) -> None:
        self.lines[line] = None

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Keep what a block raises for the user, and go on behind the block."""
        try:
            yield
        except UserError as error:
            for line in str(error).splitlines():
                self.add(line)

    def tell(self) -> None:
        """Raise what has been found, if anything: as a UserError of one line, or as Mistakes of several."""
        if self.lines:
            raise (UserError if len(self.lines) == 1 else Mistakes)("\n".join(self.lines))
