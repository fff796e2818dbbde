"""A file that is read at any place."""

import os
import weakref
from pathlib import Path


class OpenFile:
    """A file for reading, by several threads at once. It is closed when nothing refers to this object any more.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, begin: int, size: int) -> bytes:
        """The bytes from a place on; fewer where the file ends."""
        return os.pread(self._descriptor, size, begin)
