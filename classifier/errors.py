"""Errors for people: the message is one line that says what is wrong, where, and what would be right."""

from collections.abc import Iterable

LISTED = 5  # names that a message lists; the others are counted
KEPT = 40  # characters that stay at each end of a longer name


class StageError(Exception):
    """Data, files or the machine are not as required."""

    exit_status = 1


class ParamsError(StageError):
    """params.yaml or the command line is wrong; nothing was done."""

    exit_status = 2


class DivergedError(StageError):
    """The loss of a training is not finite, or was far too high from the start."""

    exit_status = 3


class PausedError(StageError):
    """A training stopped at ``runtime.stop_after_epoch``; its checkpoint is saved. The status is EX_TEMPFAIL.

    Attributes:
        history: a row for each epoch.
    """

    exit_status = 75

    def __init__(self, message: str, history: list[dict[str, float]]):
        super().__init__(message)
        self.history = history


def shorten(names: Iterable[str], most: int = LISTED) -> str:
    """Names for a message: the first few, without the middle of long ones, and how many more there are."""
    listed = [name if len(name) <= 2 * KEPT + 1 else f"{name[:KEPT]}…{name[-KEPT:]}" for name in names]
    more = len(listed) - most
    return ", ".join(listed) if more <= 1 else f"{', '.join(listed[:most])} and {more:,} more"
