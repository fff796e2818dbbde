"""To be removed with its last two users, the tests of search and Slurm: no program is forked any more."""

from pathlib import Path


def programs() -> Path | None:
    return None
