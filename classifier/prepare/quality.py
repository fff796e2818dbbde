"""Data quality issues of a dataset that can be used all the same: counted and reported, never fixed.

Everybody reports results on the official test images; dropping one would make it a different benchmark.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

NEAR = 4.0  # gray levels of 255: the largest root mean squared difference of two nearly identical images
BLOCKS = (3, 4)  # rows and columns per image; more blocks give fewer candidates but a slower search
COMPARED_BYTES = 1 << 26  # of pixels that are compared at once
MAX_CANDIDATES = 5_000_000  # pairs; of more, each image is compared with its nearest ones only
NEAREST = 16
LISTED = 500  # rows of the table of findings


class DataQuality:
    """Collects what is needed of each image as it passes, a few numbers, and finds the issues at the end."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._means: list[np.ndarray] = []
        self._blank: list[np.ndarray] = []
        self._image_bytes = 0
        self._radius = 0.0  # of two means; no images that differ by at most NEAR are farther apart

    def add(self, pixels: np.ndarray) -> None:
        """Look at ``(N, C, H, W) uint8`` images."""
        flat = pixels.reshape(len(pixels), -1)
        self._blank.append(flat.max(1) == flat.min(1))
        self._digests += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in pixels]
        self._means.append(block_means(pixels, BLOCKS).mean(1))
        _, _, *size = pixels.shape
        self._image_bytes = pixels[0].nbytes
        self._radius = NEAR * _blocks_per_image(size, BLOCKS) ** 0.5

    def findings(
        self, rows: pd.DataFrame, lookup: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[dict[str, Any], pd.DataFrame]:
        """The counts as metrics/annotate.json holds them, and the images that they count.

        Args:
            rows: the annotations of all images that were added, with ``image``, ``label``, ``split``, ``group``.
            lookup: the images at ``(n,) int``, ``(n, C, H, W) uint8``.

        Returns:
            Counts, and a table of what they count, the worst first: ``finding``, ``image``, ``other`` (none for a blank
            image), ``labels_differ`` and ``splits_differ``.
        """
        blank = np.concatenate(self._blank).nonzero()[0]
        pairs = {
            "identical": self._identical(),
            "nearly identical": self._nearly_identical(rows, lookup),
            "same group": _cut_groups(rows),
        }
        cut = rows["group"].iloc[pairs["same group"][0]].nunique()
        counts: dict[str, Any] = {"blank": len(blank), "groups_in_several_splits": cut}
        label, split, image = (rows[column].to_numpy() for column in ("label", "split", "image"))
        found = [pd.DataFrame({"finding": "blank", "image": image[blank], "other": ""})]
        for finding, (first, second) in pairs.items():
            table = pd.DataFrame({"finding": finding, "image": image[first], "other": image[second]})
            table["labels_differ"], table["splits_differ"] = (
                label[first] != label[second],
                split[first] != split[second],
            )
            found.append(table)
        listed = pd.concat(found, ignore_index=True).fillna({"labels_differ": False, "splits_differ": False})
        listed = listed.astype({"labels_differ": bool, "splits_differ": bool})
        order = ["labels_differ", "splits_differ", "finding", "image", "other"]
        listed = listed.sort_values(order, ascending=[False, False, True, True, True], ignore_index=True)
        counts["identical"] = self._images_with_an_identical_one(rows)
        near = listed[listed["finding"] == "nearly identical"]
        counts["nearly_identical"] = {
            "across_splits": int(near["splits_differ"].sum()),
            "pairs": len(near),
            "with_another_label": int(near["labels_differ"].sum()),
        }
        return counts, listed

    def _images_with_an_identical_one(self, rows: pd.DataFrame) -> dict[str, int]:
        groups = rows.groupby(self._digests)
        duplicates = groups["label"].transform("size") > 1
        return {
            "across_splits": int((duplicates & (groups["split"].transform("nunique") > 1)).sum()),
            "images": int(duplicates.sum()),
            "with_another_label": int((duplicates & (groups["label"].transform("nunique") > 1)).sum()),
        }

    def _identical(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs: the first of images that are identical, and each of the others."""
        place = pd.Series(range(len(self._digests)))
        first = place.groupby(self._digests).transform("first").to_numpy()
        later = (first != place.to_numpy()).nonzero()[0]
        return first[later], later

    def _nearly_identical(
        self, rows: pd.DataFrame, lookup: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of images that differ, but by at most ``NEAR``.

        The block means of two images differ no more than their pixels do, so a k-d tree of the means finds all
        candidates among 70,000 images in a few seconds. Of identical images one is compared.
        """
        groups = pd.Series(range(len(self._digests))).groupby(self._digests, sort=False)
        first = groups.first().to_numpy()
        candidates = first[_candidates(np.concatenate(self._means)[first], self._radius)]
        near = np.concatenate([pairs[_is_near(lookup, pairs)] for pairs in _parts(candidates, 4 * self._image_bytes)])
        sizes = groups.transform("size").to_numpy()[near]
        if (sizes > 1).any() and sizes.prod(1).sum() <= MAX_CANDIDATES:  # list their copies, too, unless it is too much
            copies = pd.DataFrame({"of": groups.transform("first")}).rename_axis("image").reset_index()
            pairs = pd.DataFrame(near, columns=["a", "b"]).merge(copies, left_on="a", right_on="of")
            pairs = pairs.merge(copies, left_on="b", right_on="of", suffixes=("_a", "_b"))
            near = np.sort(pairs[["image_a", "image_b"]].to_numpy(), axis=1)
        first, second = near.T
        return first, second


def write(path: Path, table: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Write the worst of the findings, with class and split of each image."""
    listed = table.head(LISTED).drop(columns=["labels_differ", "splits_differ"])
    of_image = rows.set_index("image")[["class_name", "split"]]
    for prefix, column in (("", "image"), ("other_", "other")):
        found = of_image.reindex(listed[column])
        listed[f"{prefix}label"], listed[f"{prefix}split"] = found["class_name"].to_numpy(), found["split"].to_numpy()
    listed.to_csv(path, index=False, lineterminator="\n")


def _cut_groups(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Pairs: the first image of a group, and its first one in each other split."""
    place = pd.Series(np.arange(len(rows)))[(rows["group"] != "").to_numpy()]
    group, split = rows["group"].to_numpy()[place], rows["split"].to_numpy()[place]
    first = place.groupby(group).transform("first")
    of_split = place.groupby([group, split]).transform("first")
    other = (place == of_split) & (split != rows["split"].to_numpy()[first])
    return first[other].to_numpy(), place[other].to_numpy()


def summarize(findings: dict[str, Any]) -> str:
    """The findings as one line for the log."""
    identical, near = findings["identical"], findings["nearly_identical"]
    return (
        f"found {findings['blank']:,} blank images, {identical['images']:,} with an identical one "
        f"({identical['across_splits']:,} in another split), {near['pairs']:,} nearly identical pairs "
        f"({near['across_splits']:,} across splits); all are kept"
    )


def block_means(pixels: np.ndarray, blocks: tuple[int, int]) -> np.ndarray:
    """Means of the blocks (rows and columns of them) of each of ``(N, C, H, W)`` images, ``(N, C, blocks)``."""
    count, channels, *size = pixels.shape
    rows, columns, height, width = _layout(size, blocks)
    whole = pixels[:, :, : rows * height, : columns * width].reshape(count, channels, rows, height, columns, width)
    return np.asarray(whole.mean((3, 5), dtype=np.float32).reshape(count, channels, -1))


def _layout(size: Sequence[int], blocks: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rows and columns of blocks, and their height and width; pixels at the edges may be in no block."""
    rows, columns = (min(parts, side) for parts, side in zip(blocks, size, strict=True))
    return rows, columns, size[0] // rows, size[1] // columns


def _blocks_per_image(size: Sequence[int], blocks: tuple[int, int]) -> float:
    """By area, so it may be a fraction."""
    _, _, height, width = _layout(size, blocks)
    return size[0] * size[1] / (height * width)


def _parts(pairs: np.ndarray, nbytes: int) -> list[np.ndarray]:
    """The pairs in parts, so that ``nbytes`` each are not too much."""
    return np.array_split(pairs, len(pairs) * nbytes // COMPARED_BYTES + 1)


def _candidates(means: np.ndarray, radius: float) -> np.ndarray:
    """Pairs whose means are that near, ``(P, 2) int``, the smaller number first; not too many of them."""
    tree = cKDTree(means)
    if (tree.count_neighbors(tree, radius) - len(means)) / 2 <= MAX_CANDIDATES:
        return np.asarray(tree.query_pairs(radius, output_type="ndarray"))
    distances, nearest = tree.query(means, min(NEAREST + 1, len(means)), distance_upper_bound=radius)
    first, place = np.isfinite(distances).nonzero()
    pairs = np.sort(np.stack([first, nearest[first, place]], axis=1), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


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
