"""Shards of the last run, by a hash of all that decides their bytes, so that only changed ones are written."""

import io
import secrets
from pathlib import Path

from classifier.data import shards
from classifier.runner import files

import numpy as np

FIGURES = "figures"


class ShardCache:
    """Shards with the figures of their images, each in a folder of its own.

    Args:
        folder: of all of them; it may be removed between two runs.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._used: set[str] = set()
        self._run = secrets.token_hex(4)  # a worker that an earlier run has left may still write to its own folder

    def load(self, key: str) -> dict[str, np.ndarray] | None:
        """The figures of a shard; None if it is not there as it was written, or lacks images.

        In the workspace people can write to the same file. And why an image could not be decoded may have passed.
        """
        if (content := files.recall(self._folder / key / FIGURES)) is None:
            return None
        with np.load(io.BytesIO(content)) as kept:
            figures = dict(kept)
        is_whole = figures.pop("written").tolist() == self._written(self._folder / key)
        return figures if is_whole and not len(figures["problems"]) else None

    def begin(self, key: str) -> Path:
        """The folder to write a shard to."""
        return self._folder / f".tmp.{key}.{self._run}"

    def finish(self, key: str, figures: dict[str, np.ndarray]) -> None:
        """Keep a shard that was written, with the figures of its images."""
        place, content = self.begin(key), io.BytesIO()
        np.savez(content, allow_pickle=False, written=self._written(place), **figures)
        files.remember(place / FIGURES, content.getvalue())
        files.publish(place, self._folder / key)

    def link(self, key: str, folder: Path) -> None:
        """Give the files of a shard a second name in a folder."""
        self._used.add(key)
        folder.mkdir(parents=True, exist_ok=True)
        for file in shards.files_in(self._folder / key):
            files.link_or_copy(file, folder / file.name)

    def forget_others(self) -> None:
        """Remove all shards but those that were linked."""
        for place in self._folder.iterdir():
            if place.name not in self._used:
                files.remove(place)

    @staticmethod
    def _written(place: Path) -> list[list[int]]:
        return [[stat.st_size, stat.st_mtime_ns] for stat in map(Path.stat, shards.files_in(place))]
