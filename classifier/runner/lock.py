"""The lock that keeps a second run of the same stage out, and the scratch folder in which it lies."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from classifier.errors import StageError

import filelock

SCRATCH = Path("scratch")  # unknown to git and DVC: locks and checkpoints
LOCK_WAIT_SECONDS = 5  # an orphaned run notices and stops well within them


@contextlib.contextmanager
def exclusive(name: str, folder: Path = SCRATCH, wait_seconds: float = LOCK_WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock of a stage.

    Args:
        name: of the stage.
        folder: of the lock.
        wait_seconds: for another process to let go of it.

    Raises:
        StageError: another process holds it; the line names the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{name}.pid"
    try:
        with filelock.FileLock(folder / f"{name}.lock", timeout=wait_seconds):
            holder.write_text(str(os.getpid()))
            yield
    except filelock.Timeout:
        pid = holder.read_text() if holder.exists() else "unknown"
        raise StageError(f"another {name} is running here (process {pid}); wait for it or stop it") from None
