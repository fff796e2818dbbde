"""Values that follow from the content of files, remembered by inode, size and time of change, as DVC does for hashes.

A file that was changed within the last moment before it was read is not remembered: the clock of a file system has
ticks, so a second change might not show.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.runner import files

TICK_SECONDS = 2.0


class StatCache:
    """Values by the path of a file; what was not asked for is forgotten when the values are saved.

    Args:
        path: the file that keeps them between runs.
    """

    def __init__(self, path: Path):
        self._path = path
        self._kept: dict[str, list[Any]] = json.loads(files.recall(path) or b"{}")
        self._used: dict[str, list[Any]] = {}
        self._newest = time.time_ns() - int(TICK_SECONDS * 1e9)

    def get(self, file: str | Path, compute: Callable[[], Any]) -> Any:
        """The value of a file; it is computed if the file is new or changed.

        Raises:
            OSError: there is no such file; or any error of the computation.
        """
        state, value = self.recall(file)
        if value is None:
            value = compute()
            self.keep(file, state, value)
        return value

    def recall(self, file: str | Path) -> tuple[list[int], Any]:
        """The state of a file, and the value that is known of it; None if the file is new or changed.

        Raises:
            OSError: there is no such file.
        """
        stat, name = os.stat(file), str(file)
        state = [stat.st_ino, stat.st_size, stat.st_ctime_ns]
        kept = self._kept.get(name)
        if not kept or kept[0] != state:
            return state, None
        self.keep(file, state, kept[1])
        return state, kept[1]

    def keep(self, file: str | Path, state: list[int], value: Any) -> None:
        """Remember a value that was computed after ``recall`` found the file in that state."""
        if state[-1] < self._newest:
            self._used[str(file)] = [state, value]

    def save(self) -> None:
        """Keep the values for the next run."""
        if self._used != self._kept:
            files.remember(self._path, json.dumps(self._used).encode())
            self._kept = self._used
