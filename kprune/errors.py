"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the cause, then the remedy.

    `run.py` prints it alone and exits with code 2.
    """


class OutOfReach(UserError):
    """A reduction beyond what the method can do on the model; a table asks first and shows a dash."""
