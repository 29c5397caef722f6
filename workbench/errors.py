"""The errors that a user of Workbench is meant to see."""


class InputError(ValueError):
    """Input that cannot be used: says what was expected, what was found, where, and how to repair it.

    The command line prints it as one paragraph without a traceback.
    """


class DamagedChunk(InputError):
    """Stored numbers that are not what was written: training may leave them out (``data.damaged: skip``)."""


def unreadable(error: Exception) -> type[InputError]:
    """The kind of a failed read: what the operating system refuses (with an error number) may be whole all the same."""
    return InputError if isinstance(error, OSError) and error.errno else DamagedChunk
