"""The one error that a user of Workbench is meant to see."""


class InputError(ValueError):
    """Input that cannot be used: says what was expected, what was found, where, and how to repair it.

    The command line prints it as one paragraph without a traceback.
    """
