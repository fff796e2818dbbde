"""Shards of the last run, by a hash of all that decides their bytes, so that only changed ones are written."""

import zipfile
from pathlib import Path

from classifier.data import shards
from classifier.runner import files

import numpy as np

FIGURES = "figures.npz"


class ShardCache:
    """Shards with the figures of their images, each in a folder of its own.

    Args:
        folder: of all of them; it may be removed between two runs.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._used: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether a shard is there, as it was written: in the workspace people can write to the same file."""
        try:
            with np.load(self._folder / key / FIGURES) as figures:
                return bool(figures["written"].tolist() == self._written(self._folder / key))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return False

    def begin(self, key: str) -> Path:
        """The folder to write a shard to."""
        files.remove(temporary := files.temporary_path(self._folder / key))
        return temporary

    def finish(self, key: str, figures: dict[str, np.ndarray]) -> None:
        """Keep a shard that was written, with the figures of its images."""
        place = self._folder / key
        temporary = files.temporary_path(place)
        np.savez(temporary / FIGURES, allow_pickle=False, written=self._written(temporary), **figures)
        files.publish(temporary, place)

    def take(self, key: str, folder: Path) -> dict[str, np.ndarray]:
        """Link a shard into a folder.

        Returns:
            The figures of its images.
        """
        self._used.add(key)
        folder.mkdir(parents=True, exist_ok=True)
        for file in shards.files_in(self._folder / key):
            files.link_or_copy(file, folder / file.name)
        with np.load(self._folder / key / FIGURES) as figures:
            return dict(figures)

    def forget_others(self) -> None:
        """Remove all shards but those that were taken."""
        for place in self._folder.iterdir():
            if place.name not in self._used:
                files.remove(place)

    @staticmethod
    def _written(place: Path) -> list[list[int]]:
        return [[stat.st_size, stat.st_mtime_ns] for stat in map(Path.stat, shards.files_in(place))]
