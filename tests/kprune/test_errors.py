"""What a command makes of how its function ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kprune.errors import UserError, command


@command
def ended(by):
    if isinstance(by, BaseException):
        raise by
    return by


@pytest.mark.parametrize(
    "by, code, told",
    [
        (None, 0, ""),
        (1, 1, ""),
        (UserError("one cause: one remedy"), 2, "error: one cause: one remedy\n"),
        (UserError("a: b\nc: d"), 2, "error: a: b\nerror: c: d\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_the_exit_code_and_what_is_told(by, code, told, capsys):
    assert ended(by) == code
    assert capsys.readouterr() == ("", told)


def test_what_no_user_can_mend_is_raised():
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError())


PRINTS = """
import sys
from kprune.errors import command

@command
def main():
    print(sys.argv[1])

sys.exit(main())
"""


BUFFERED = pytest.mark.parametrize("buffered", [{"PYTHONUNBUFFERED": ""}, {"PYTHONUNBUFFERED": "1"}])


def printing(text, output, **environment):
    """Run a command that prints a text to a file, and return its exit code and what it tells."""
    done = subprocess.run(
        [sys.executable, "-c", PRINTS, text],
        cwd=Path(__file__).parents[2],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    return done.returncode, done.stderr


@BUFFERED
def test_output_that_nobody_reads_ends_a_command_without_a_word(buffered):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        assert printing("a", closed, **buffered) == (141, "")


@BUFFERED
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_can_not_be_written_is_one_line(buffered):
    with open("/dev/full", "w") as full:
        code, told = printing("a", full, **buffered)
    assert (code, told) == (
        2,
        "error: what is printed or saved can't be written (No space left on device): free the disk\n",
    )


def test_a_character_that_the_terminal_does_not_have_is_escaped(tmp_path):
    with (tmp_path / "printed").open("w") as printed:
        assert printing("small-é\udcff", printed, PYTHONIOENCODING="ascii") == (0, "")
    assert (tmp_path / "printed").read_text() == "small-\\xe9\\udcff\n"
