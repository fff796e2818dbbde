"""Two generations of a run's state in the scratch folder, each with its digest."""

import hashlib
import io
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

from classifier.runner import files

import torch

logger = logging.getLogger(__name__)

DIGEST_BYTES = hashlib.sha256().digest_size


class Checkpoint:
    """Where an interrupted run goes on; ``save`` keeps the previous state as well, in case the newest gets corrupt.

    Args:
        folder: of the run, in the scratch folder.
        seconds: after which a new one is due, ``runtime.checkpoint_seconds``.
    """

    def __init__(self, folder: Path, seconds: float = math.inf):
        self.folder, self._seconds = folder, seconds
        self._saved_at = time.monotonic()
        self.newest, self.older = folder / "newest.pt", folder / "older.pt"
        self._newest_is_corrupt = False

    def due(self) -> bool:
        """Whether the last one is so old that a power cut would cost too much."""
        return time.monotonic() >= self._saved_at + self._seconds

    def save(self, state: dict[str, Any]) -> None:
        """Write the state: tensors, numbers, text, and lists and dictionaries of them."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.newest.exists() and not self._newest_is_corrupt:  # a corrupt one must not replace the good older one
            self.newest.replace(self.older)
        files.atomic_write(self.newest, hashlib.sha256(content).digest() + content)
        self._newest_is_corrupt = False
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The newest state that is intact, or None."""
        corrupt: list[str] = []
        for path in (self.newest, self.older):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
            if hashlib.sha256(content).digest() == digest:
                if corrupt:
                    logger.warning(f"{corrupt[0]} is corrupt; the previous checkpoint is used")
                state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
                return state
            corrupt.append(str(path))
            self._newest_is_corrupt = True
        if corrupt:
            logger.warning(f"{' and '.join(corrupt)}: corrupt, and there is no other checkpoint; starting from scratch")
        return None

    def remove(self) -> None:
        """Delete all states: the run has succeeded."""
        shutil.rmtree(self.folder, ignore_errors=True)
