"""What a command makes of how its function ends."""

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
