"""Writes the images of all splits in shards, and collects on the way what is reported about them."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from classifier.config.schema import Annotate
from classifier.data import images, shards
from classifier.errors import StageError
from classifier.prepare import quality
from classifier.prepare.labeled_images import LabeledImages

import numpy as np
import pandas as pd

BATCH = 256  # images whose figures are computed at once
SAMPLES = 10  # of each class, for a picture


@dataclass
class Packed:
    """The images that were written, and what is reported about them.

    Attributes:
        rows: of the images that were written, in the order of ``LabeledImages.rows``.
        folders: of the test images (True) and of the others (False).
        figures: of each row, from ``quality.describe``.
        histogram: of the training pixels by channel, ``(C, 256) int64``.
        problems: why images were left out, a line each.
    """

    rows: pd.DataFrame
    folders: dict[bool, Path]
    figures: pd.DataFrame
    histogram: np.ndarray
    problems: list[str]

    @functools.cached_property
    def _read(self) -> dict[bool, Callable[[str], bytes]]:
        return {is_test: images.reader(folder) for is_test, folder in self.folders.items()}

    def lookup(self, places: np.ndarray) -> np.ndarray:
        """The images at some places of the rows, ``(n, C, H, W) uint8``."""
        chosen = self.rows.iloc[places]
        pairs = zip(chosen["image"], chosen["split"] == "test", strict=True)
        return np.stack([images.decode(self._read[is_test](name), name) for name, is_test in pairs])

    def samples(self) -> dict[int, np.ndarray]:
        """The first training images of each class, by label."""
        labels = self.rows["label"][self.rows["split"] == "train"]
        return {label: self.lookup(labels.index[labels == label].to_numpy()[:SAMPLES]) for label in labels.unique()}


def pack(found: LabeledImages, folders: dict[bool, Path], options: Annotate) -> Packed:
    """Write each image to its shard, in the folder of the test images (True) or of the others (False).

    Raises:
        StageError: an image cannot be decoded, and ``bad_files`` says to stop.
    """
    names, labels, splits = (found.rows[column].to_numpy() for column in ("image", "label", "split"))
    how = found.preprocessing
    most = _images_in(options.shard_mb, (how.channels, how.height, how.width))
    plan = []
    for is_test, folder in folders.items():
        places = ((splits == "test") == is_test).nonzero()[0]
        plan += [(folder, shard, places[chosen]) for shard, chosen in shards.plan(names[places], most)]
    decoded = found.decode(np.concatenate([places for _, _, places in plan]))
    problems: list[str] = []

    def of_shard(places: np.ndarray, kept: dict[int, np.ndarray]) -> Iterator[tuple[str, int, bytes]]:
        for place, pixels in itertools.islice(decoded, len(places)):
            if not isinstance(pixels, StageError):
                kept[place] = pixels
                yield names[place], labels[place], images.png(pixels)
            elif options.bad_files == "stop":
                raise pixels
            else:
                problems.append(str(pixels))

    figures, histogram = [], np.zeros((how.channels, 256), np.int64)
    for folder, shard, places in plan:
        kept: dict[int, np.ndarray] = {}
        shards.write(folder, shard, of_shard(places, kept))
        for begin in range(0, len(kept), BATCH):
            batch = np.array([*kept][begin : begin + BATCH])
            pixels = np.stack([kept[place] for place in batch])
            figures.append(quality.describe(pixels).set_index(batch))
            histogram += images.histogram(pixels[splits[batch] == "train"])
    if not figures:
        raise StageError(f"no image can be decoded: {min(problems)}")
    in_order = pd.concat(figures).sort_index()
    rows = found.rows.loc[in_order.index].reset_index(drop=True)
    return Packed(rows, folders, in_order.reset_index(drop=True), histogram, sorted(problems))


def _images_in(megabytes: float, shape: tuple[int, int, int]) -> int:
    """The images of one shape that a shard has room for, at least one."""
    return max(1, int(megabytes * 1e6) // shards.stored_bytes(images.png(np.zeros(shape, np.uint8))))
