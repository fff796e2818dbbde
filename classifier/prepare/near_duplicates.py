"""Pairs of images that differ little, without a comparison of all with all.

An image is sketched by the sums of a few blocks of its pixels. Images that are near each other have sketches that are
near each other, and a k-d tree finds those; a finer sketch leaves few of which the pixels are compared. What was found
is remembered, so that a set that grew by one image is searched for the neighbors of that one.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from classifier.runner import files
from classifier.threads import count_cores

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

NEAR = 4.0  # gray levels of 255: the largest root mean squared difference of two nearly identical images
COARSE, FINE = (3, 4), (8, 8)  # rows and columns of blocks; a k-d tree of more numbers is slower
COMPARED_BYTES = 1 << 24  # of differences that are computed at once
MAX_CANDIDATES = 5_000_000  # pairs; of more, each image is compared with its nearest ones only
NEAREST = 16
SEARCHED = 1 << 14  # images whose neighbors are counted at once
LISTED = 1 << 20  # neighbors that are listed at once, about; Python needs 36 bytes for each
NONE = np.zeros((0, 2), int)  # pairs


def sketch(pixels: np.ndarray, blocks: tuple[int, int]) -> np.ndarray:
    """A few numbers for each of ``(N, C, H, W)`` images, ``(N, blocks) float``: the sums of blocks of its pixels.

    Each is divided by the root of the pixels in the block, so two images are nowhere nearer than their numbers.
    """
    rows, columns = (
        np.arange(0, side, -(-side // parts)) for side, parts in zip(pixels.shape[2:], blocks, strict=True)
    )

    def sums(planes: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(planes.sum(1, dtype=np.float64), rows, axis=1), columns, axis=2)

    of_blocks = sums(pixels) / sums(np.ones((1, *pixels.shape[1:]))) ** 0.5
    return np.asarray(of_blocks).reshape(len(pixels), len(rows) * len(columns))


@dataclass
class _Memory:
    """The state that a search leaves behind.

    Attributes:
        digests: of the images that were searched, ``(N,)``.
        pairs: of those, the nearly identical ones, ``(P, 2)``.
        candidates: how many pairs of them were compared, at least; infinity if they were too many.
    """

    digests: np.ndarray = field(default_factory=lambda: np.zeros(0, "S32"))
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), "S32"))
    candidates: float = 0

    @classmethod
    def load(cls, path: Path) -> "_Memory":
        """That of the last search; an empty one if there is none."""
        if (content := files.recall(path)) is None:
            return cls()
        with np.load(io.BytesIO(content)) as kept:
            return cls(kept["digests"], kept["pairs"], float(kept["candidates"]))

    def save(self, path: Path) -> None:
        """Leave it for the next search."""
        content = io.BytesIO()
        np.savez(content, digests=self.digests, pairs=self.pairs, candidates=self.candidates)
        files.remember(path, content.getvalue())

    def pairs_among(self, digests: np.ndarray) -> np.ndarray:
        """The pairs by place, ``(P, 2) int``, of which both images are still there."""
        places = pd.Index(digests).get_indexer(self.pairs.ravel()).reshape(-1, 2)
        return np.sort(places[(places >= 0).all(1)], axis=1)


def find(
    digests: np.ndarray,
    coarse: np.ndarray,
    fine: np.ndarray,
    lookup: Callable[[np.ndarray], np.ndarray],
    memory: Path,
) -> np.ndarray:
    """Pairs of images that differ by at most ``NEAR``, ``(P, 2) int``, the smaller number first.

    Args:
        digests: of the pixels, ``(N,) bytes``, all different.
        coarse, fine: sketches of the images; the fine ones are float32, to take less memory.
        lookup: the images at ``(n,) int``, ``(n, C, H, W) uint8``.
        memory: the file for what is remembered of images of this shape; it may be missing.
    """
    known = _Memory.load(memory)
    if np.array_equal(digests, known.digests):
        return known.pairs_among(digests)
    pixels_per_image = lookup(np.zeros(1, int)).size
    radius = (NEAR + 1e-6) * pixels_per_image**0.5  # a little more, as sums are rounded
    tree = cKDTree(coarse)

    def close(pairs: np.ndarray) -> np.ndarray:
        """Those pairs whose fine sketches are near, too."""
        parts = np.array_split(pairs, len(pairs) // SEARCHED + 1)
        squared = np.concatenate([((fine[some[:, 0]] - fine[some[:, 1]]) ** 2).sum(1) for some in parts])
        return np.compress(squared <= (1.0001 * radius) ** 2, pairs, axis=0)  # float32 is exact to 0.00001 of it

    def compare(candidates: list[np.ndarray]) -> np.ndarray:
        pairs = np.unique(np.sort(np.concatenate(candidates), axis=1), axis=0)
        parts = np.array_split(pairs, len(pairs) * 4 * pixels_per_image // COMPARED_BYTES + 1)
        return np.concatenate([some[_is_near(lookup, some)] for some in parts])

    def search(known: _Memory) -> _Memory | None:
        """Search for pairs with an image that is not known; None if they are too many."""
        total, candidates = known.candidates, [NONE]
        for pairs in _neighbors(tree, radius, ~np.isin(digests, known.digests)):
            if pairs is None or (total := total + len(pairs)) > MAX_CANDIDATES:
                return None
            candidates.append(close(pairs))
        found = np.concatenate([known.pairs_among(digests), compare(candidates)])
        return _Memory(digests, digests[found], total)

    found = search(known)
    if found is None and len(known.digests):  # images may be gone, so the known candidates are too many
        found = search(_Memory())
    if found is None:
        pairs = compare([close(pairs) for pairs in _nearest(tree, radius)])
        found = _Memory(digests, digests[pairs], math.inf)
    found.save(memory)
    return found.pairs_among(digests)


def _neighbors(tree: cKDTree, radius: float, new: np.ndarray) -> Iterator[np.ndarray | None]:
    """Pairs with a new image whose sketches are that near, ``(P, 2) int``, each once; None where they are too many."""
    places, cores = new.nonzero()[0], count_cores()
    for some in np.array_split(places, len(places) // SEARCHED + 1):
        counts = tree.query_ball_point(tree.data[some], radius, return_length=True, workers=cores)
        if counts.sum() - len(some) > 2 * MAX_CANDIDATES:  # a pair is counted twice at most
            yield None
            continue
        for part in np.array_split(some, counts.sum() // LISTED + 1):
            neighbors = tree.query_ball_point(tree.data[part], radius, workers=cores)
            first = np.repeat(part, [len(each) for each in neighbors])
            second = np.concatenate([NONE[:, 0], *neighbors])
            yield np.stack([first, second], axis=1)[(first < second) | ~new[second]]


def _nearest(tree: cKDTree, radius: float) -> Iterator[np.ndarray]:
    """Pairs of each image and its nearest ones, ``(P, 2) int``; of two images one pair, or two."""
    for some in np.array_split(np.arange(tree.n), tree.n // SEARCHED + 1):
        distances, nearest = tree.query(
            tree.data[some], min(NEAREST + 1, tree.n), distance_upper_bound=radius, workers=count_cores()
        )
        place, rank = (np.isfinite(distances) & (nearest != some[:, None])).nonzero()
        yield np.stack([some[place], nearest[place, rank]], axis=1)


def _is_near(lookup: Callable[[np.ndarray], np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Which of ``(P, 2)`` pairs of images are nearly but not exactly identical, ``(P,) bool``."""
    if not len(pairs):
        return np.zeros(0, bool)
    places, which = np.unique(pairs, return_inverse=True)
    first, second = which.reshape(pairs.shape).T
    pixels = lookup(places)
    difference = pixels[first].astype(np.float32) - pixels[second]
    squared = (difference**2).mean((1, 2, 3))
    return np.asarray((squared > 0) & (squared <= NEAR**2))
