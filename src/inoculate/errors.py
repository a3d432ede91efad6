"""The one exception for what a user can mend."""


class InputError(ValueError):
    """The user's input is wrong: a single line that says what, where and how to mend it.

    The command line prints the line and exits with code 2; in Python it is an ordinary `ValueError`.
    """
