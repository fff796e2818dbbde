"""Two generations of a run's state in the scratch folder, each with its digest."""

import hashlib
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from stages.lib.runner import files

DIGEST_BYTES = hashlib.sha256().digest_size


class Checkpoint:
    """Where an interrupted run goes on; ``save`` keeps the state before as well, should the newest be damaged."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.newest, self.older = folder / "newest.pt", folder / "older.pt"
        self._newest_is_damaged = False

    def save(self, state: dict[str, Any]) -> None:
        """Write the state: tensors, numbers, text, and lists and dictionaries of them."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.newest.exists() and not self._newest_is_damaged:  # a damaged one must not replace the good older one
            self.newest.replace(self.older)
        files.write_whole(self.newest, hashlib.sha256(content).digest() + content)
        self._newest_is_damaged = False

    def load(self) -> dict[str, Any] | None:
        """The newest undamaged state, or None."""
        damaged: list[str] = []
        for path in (self.newest, self.older):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
            if hashlib.sha256(content).digest() == digest:
                if damaged:
                    print(f"warning: {damaged[0]} is damaged; falling back to the state before it", file=sys.stderr)
                state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
                return state
            damaged.append(str(path))
            self._newest_is_damaged = True
        if damaged:
            print(f"warning: {' and '.join(damaged)}: damaged, and no other is there; starting afresh", file=sys.stderr)
        return None

    def remove(self) -> None:
        """Forget the run: it has succeeded."""
        shutil.rmtree(self.folder, ignore_errors=True)
