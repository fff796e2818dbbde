"""Errors for people: the message is one line that says what is wrong, where, and what would be right."""


class StageError(Exception):
    """Data, files or the machine are not as required."""

    exit_status = 1


class ParamsError(StageError):
    """params.yaml or the command line is wrong; nothing was done."""

    exit_status = 2
