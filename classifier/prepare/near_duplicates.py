"""Pairs of images that differ little, without a comparison of all with all.

An image is sketched by the means of a few blocks of its pixels, and by how much it varies in them. Images that are near
each other have sketches that are near each other. Sketches are sorted along the two directions in which they differ
most, so that a matrix product compares each with those beside it only; few pairs are left of which the pixels are
compared. What was found is remembered, so that a set that grew by one image is searched for the neighbors of that one.

The matrix product rounds, so it only sorts out what is too far in any case. The rest is decided in whole numbers: the
same pairs on every processor.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from classifier.runner import files

import numpy as np
import pandas as pd

NEAR = 4.0  # gray levels of 255: the largest root mean squared difference of two nearly identical images
BLOCKS = 8  # along each side of an image
SCALE = 16  # steps of a sketch for a gray level; more would not fit into 16 bits
MAX_CANDIDATES = 5_000_000  # pairs; of more, those with the nearest sketches are compared
NEXT = 16  # with so many others of the same sketch an image is compared, if there are too many pairs of those
LEFT, RIGHT = 512, 1024  # sketches that are multiplied at once, so that their products stay in the processor's cache
SAMPLE = 20_000  # sketches that show in which directions all of them differ
FEW = 0.1  # of the images may be new, so that those alone are searched for, among all
ROUNDING = 2.0**-15  # of the largest squared length: more than 65 products in 32 bits are rounded by
COMPARED_BYTES = 1 << 24  # of differences that are computed at once


def sketch(pixels: np.ndarray) -> np.ndarray:
    """A few numbers for each of ``(N, C, H, W) uint8`` images, ``(N, numbers) uint16``.

    The means of up to 8x8 blocks, each scaled by the root of its share of the pixels, and the root mean square of what
    remains of the image without them. Two images are nowhere nearer than their sketches: if they differ by one gray
    level, root mean square, their sketches differ by ``SCALE * BLOCKS`` at most.
    """
    _, channels, *sides = pixels.shape
    rows, columns = (np.arange(0, side, -(-side // BLOCKS)) for side in sides)

    def sums(planes: np.ndarray) -> np.ndarray:
        of_blocks = np.add.reduceat(np.add.reduceat(planes, rows, axis=1), columns, axis=2)
        return np.asarray(of_blocks).reshape(len(planes), len(rows) * len(columns))

    share = channels * math.prod(sides)
    means = sums(pixels.sum(1, dtype=np.float64)) / (sums(np.full((1, *sides), channels)) * share) ** 0.5
    squares = np.square(pixels, dtype=np.uint32).sum((1, 2, 3), dtype=np.float64) / share
    rest = np.maximum(0, squares - (means**2).sum(1)) ** 0.5
    return np.asarray(np.rint(SCALE * BLOCKS * np.concatenate([means, rest[:, None]], axis=1)), np.uint16)


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
    digests: np.ndarray, sketches: np.ndarray, lookup: Callable[[np.ndarray], np.ndarray], memory: Path
) -> np.ndarray:
    """Pairs of images that differ by at most ``NEAR``, ``(P, 2) int``, the smaller number first.

    Args:
        digests: of the pixels, ``(N,) bytes``, all different.
        sketches: of the images, ``(N, blocks) uint16``.
        lookup: the images at ``(n,) int``, ``(n, C, H, W) uint8``.
        memory: the file for what is remembered of images of this shape; it may be missing.
    """
    remembered = _Memory.load(memory)
    if np.array_equal(digests, remembered.digests):
        return remembered.pairs_among(digests)
    for known in (remembered, _Memory()):
        new = ~np.isin(digests, known.digests)
        if known is remembered and new.mean() > FEW:
            continue
        candidates = Candidates(sketches, new)
        total = known.candidates + len(candidates.pairs) if candidates.is_whole else math.inf
        if total <= MAX_CANDIDATES:  # images may be gone, so the known candidates may be too many
            break
    pairs = np.concatenate([known.pairs_among(digests), _compare(lookup, candidates.pairs)])
    found = _Memory(digests, digests[pairs], total)
    found.save(memory)
    return found.pairs_among(digests)


class Candidates:
    """Pairs with a new image whose sketches are so near that the images may be.

    Args:
        sketches: of all images.
        new: which of them are new, ``(N,) bool``.

    Attributes:
        pairs: ``(P, 2) int``, each once, the smaller number first; of too many, those with the nearest sketches.
        is_whole: whether those are all.
    """

    def __init__(self, sketches: np.ndarray, new: np.ndarray):
        self._limit = int(((SCALE * NEAR + 1) * BLOCKS + 1) ** 2)  # 65 differences are rounded by 1 at most
        sample = sketches[:: max(1, len(sketches) // SAMPLE)].astype(np.float32)
        center = np.rint(sample.mean(0))  # differences of whole numbers are exact
        centered = (sample - center).astype(np.float64)
        directions = np.linalg.eigh(centered.T @ centered)[1][:, -2:].astype(np.float32)
        parts = np.array_split(sketches, len(sketches) // SAMPLE + 1)
        along = np.concatenate([(part - center) @ directions for part in parts])
        slab = np.floor(along[:, -1] / self._radius).astype(int)
        order = np.lexsort((along[:, 0], slab))
        self._slab, self._along, self._new = slab[order], along[order, 0], new[order]
        self._sketches = sketches[order].astype(np.float32)
        self._sketches -= center
        self._halves = np.einsum("nb,nb->n", self._sketches, self._sketches) / 2  # of the squared lengths
        self._slack = ROUNDING * self._halves.max()
        self.is_whole = True
        self.pairs = np.sort(order[self._search()], axis=1)
        self.pairs = self.pairs[np.lexsort(self.pairs.T[::-1])]

    @property
    def _radius(self) -> float:
        return math.sqrt(self._limit) + 1  # a step more, as directions are rounded

    def _search(self) -> np.ndarray:
        self._found: list[np.ndarray] = []
        total = 0
        for left, right in self._windows():
            self._found.append(self._close(left, right))
            total += len(self._found[-1])
            if total > 2 * MAX_CANDIDATES:  # seldom, as it takes its time
                total = self._forget_far_ones()
            if self._limit < 0:
                break
        if total > MAX_CANDIDATES:
            self._forget_far_ones()
        return self._next_ones() if self._limit < 0 else np.concatenate(self._found)[:, :2]

    def _forget_far_ones(self) -> int:
        """Lower the limit to the largest that leaves so few pairs as are compared; returns their number."""
        together = np.concatenate(self._found)
        self._limit = int((np.bincount(together[:, 2]).cumsum() <= MAX_CANDIDATES).sum()) - 1
        self._found = [together[together[:, 2] <= self._limit]]
        self.is_whole = False
        return len(self._found[0])

    def _windows(self) -> Iterator[tuple[np.ndarray, slice]]:
        """Places among the sorted sketches, and those that they are to be compared with."""
        for left, first, end in self._wide_windows():
            for begin in range(first, end, RIGHT):
                yield left, slice(begin, min(begin + RIGHT, end))

    def _wide_windows(self) -> Iterator[tuple[np.ndarray, int, int]]:
        new = self._new.nonzero()[0]
        if len(new) < len(self._new):
            for left in np.array_split(new, len(new) // LEFT + 1):
                yield left, 0, len(self._new)
            return
        for slab in np.unique(self._slab):
            begin, middle, end = np.searchsorted(self._slab, [slab, slab + 1, slab + 2])
            for left in np.array_split(np.arange(begin, middle), (middle - begin) // LEFT + 1):
                along = self._along[left[0]] - self._radius, self._along[left[-1]] + self._radius
                yield left, left[0], begin + np.searchsorted(self._along[begin:middle], along[1])
                yield left, *(middle + np.searchsorted(self._along[middle:end], along))

    def _close(self, left: np.ndarray, right: slice) -> np.ndarray:
        """Pairs of near sketches, each once, ``(P, 3) int32``: both places, and the squared distance."""
        products = self._sketches[left] @ self._sketches[right].T
        products -= self._halves[right]
        least = self._halves[left] - self._limit / 2 - self._slack
        hits = np.flatnonzero(products >= least[:, None])  # far faster than nonzero
        one, other = np.divmod(hits, products.shape[1])
        difference = self._sketches[left[one]] - self._sketches[right.start + other]
        squared = np.einsum("nb,nb->n", difference, difference).astype(int)
        close = np.stack([left[one], right.start + other, squared], axis=1, dtype=np.int32, casting="same_kind")
        is_first = (close[:, 0] < close[:, 1]) | ~self._new[close[:, 1]]
        return np.compress((squared <= self._limit) & is_first, close, axis=0)

    def _next_ones(self) -> np.ndarray:
        """Pairs of images of the same sketch that follow each other closely."""
        order = np.lexsort(self._sketches.T)
        sketches = self._sketches[order]
        run = np.concatenate([[0], (sketches[1:] != sketches[:-1]).any(1).cumsum()])
        pairs = [np.stack([order[:-step], order[step:]], 1)[run[step:] == run[:-step]] for step in range(1, NEXT + 1)]
        return np.concatenate(pairs)


def _compare(lookup: Callable[[np.ndarray], np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Those of ``(P, 2)`` pairs of images that are nearly but not exactly identical."""
    if not len(pairs):
        return pairs
    bytes_per_pair = 4 * lookup(np.zeros(1, int)).size
    near = []
    for some in np.array_split(pairs, len(pairs) * bytes_per_pair // COMPARED_BYTES + 1):
        places, which = np.unique(some, return_inverse=True)
        first, second = which.reshape(some.shape).T
        pixels = lookup(places)
        difference = pixels[first].astype(np.float32) - pixels[second]
        squared = (difference**2).mean((1, 2, 3))
        near.append(some[(squared > 0) & (squared <= NEAR**2)])
    return np.concatenate(near)
