"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the cause, then the remedy.

    `run.py` prints it alone and exits with code 2.
    """


def check_positive(**settings: float) -> None:
    """Raises a UserError where a setting is not a number above 0."""
    for name, value in settings.items():
        if not 0 < value < float("inf"):
            raise UserError(f"{name}={value} is out of range: give a number above 0")


class OutOfReach(UserError):
    """A reduction beyond what the method can do on the model; a table asks first and shows a dash."""
