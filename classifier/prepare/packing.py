"""Writes the images of all splits, and collects on the way what is reported about them."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from classifier.data import images
from classifier.errors import StageError
from classifier.prepare.quality import DataQuality

import numpy as np
import pandas as pd

BATCH = 256  # images whose figures are computed at once
SAMPLES_PER_CLASS = 10
KEPT_BYTES = 1 << 29  # of pixels that stay in memory for the search for near-duplicates; others are read again


@dataclass
class Packed:
    """The images that were written, and what is reported about them.

    Attributes:
        kept: the rows whose images were written, ``(N,) bool``.
        problems: why others were not, a line each.
        quality: has seen every image.
        histogram: of the training pixels by channel, ``(C, 256) int64``.
        samples: the first training images of each class, by label.
    """

    kept: np.ndarray
    problems: list[str] = field(default_factory=list)
    quality: DataQuality = field(default_factory=DataQuality)
    histogram: np.ndarray | int = 0
    samples: dict[int, list[np.ndarray]] = field(default_factory=dict)
    _pixels: list[np.ndarray] | None = field(default_factory=list)

    def lookup(self, rows: pd.DataFrame, archives: dict[bool, Path], places: np.ndarray) -> np.ndarray:
        """The images at some places of the rows, ``(n, C, H, W) uint8``."""
        if self._pixels is not None:
            return np.stack([self._pixels[place] for place in places])
        read = {is_test: images.reader(path) for is_test, path in archives.items()}
        chosen = rows.iloc[places]
        pairs = zip(chosen["image"], chosen["split"] == "test", strict=True)
        return np.stack([images.decode(read[is_test](name), name) for name, is_test in pairs])

    def add(self, batch: list[np.ndarray], labels: list[int], is_train: list[bool]) -> None:
        """Take the figures of some images that were written."""
        pixels = np.stack(batch)
        self.quality.add(pixels)
        if any(is_train):
            self.histogram = self.histogram + images.histogram(pixels[np.asarray(is_train)])
        for image, label, train in zip(batch, labels, is_train, strict=True):
            if train and len(shown := self.samples.setdefault(label, [])) < SAMPLES_PER_CLASS:
                shown.append(image)
        if self._pixels is not None:
            self._pixels += batch
            if len(self._pixels) * batch[0].nbytes > KEPT_BYTES:
                self._pixels = None


def pack(
    rows: pd.DataFrame, decoded: Iterable[tuple[int, np.ndarray | StageError]], archives: dict[bool, Path], skip: bool
) -> Packed:
    """Write each image to the archive of its split.

    Args:
        rows: with ``image``, ``label`` and ``split``.
        decoded: place in the rows and pixels of each image, ``(C, H, W) uint8``, or why there are none.
        archives: of test images (True) and of the others (False).
        skip: leave out images that cannot be decoded, instead of failing.

    Raises:
        StageError: an image cannot be decoded.
    """
    packed = Packed(np.zeros(len(rows), bool))
    names, labels, splits = (rows[column].tolist() for column in ("image", "label", "split"))
    images_in_order = iter(decoded)
    with images.ZipWriter(archives[True]) as test, images.ZipWriter(archives[False]) as other:
        while some := [*itertools.islice(images_in_order, BATCH)]:
            written: dict[int, np.ndarray] = {}
            for place, pixels in some:
                if isinstance(pixels, StageError):
                    packed.problems.append(str(pixels))
                    if not skip:
                        raise pixels
                else:
                    (test if splits[place] == "test" else other).add(names[place], pixels)
                    written[place] = pixels
            if written:
                packed.kept[[*written]] = True
                is_train = [splits[place] == "train" for place in written]
                packed.add([*written.values()], [labels[place] for place in written], is_train)
    return packed
