"""What a stage says when it cannot go on: one line for a person, and an exit status for DVC."""


class StageError(Exception):
    """Data, files or the machine are not as they must be. The message is one line: what, where, what would be right."""

    exit_status = 1


class ParamsError(StageError):
    """params.yaml or the command line is wrong; nothing was done."""

    exit_status = 2
