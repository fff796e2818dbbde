"""Data quality issues of a dataset that can be used all the same: counted and reported, never fixed.

Everybody reports results on the official test images; dropping one would make it a different benchmark.
"""

import hashlib
from typing import Any

import numpy as np
import pandas as pd

NEAR = 4.0  # gray levels of 255: the largest root mean squared difference of two nearly identical images
BLOCKS = (2, 4)  # rows and columns per image; more blocks give fewer candidates but a slower search
CANDIDATES = 20_000  # pairs whose pixels are compared at once


def find_issues(pixels: np.ndarray, rows: pd.DataFrame) -> dict[str, Any]:
    """All counts of this module, as metrics/annotate.json holds them.

    Args:
        pixels: ``(N, H, W) uint8``.
        rows: their annotations, with the columns ``label`` and ``split``.
    """
    return {
        "blank": blank(pixels),
        "identical": identical(pixels, rows),
        "nearly_identical": nearly_identical(pixels, rows),
    }


def summarize(findings: dict[str, Any]) -> str:
    """The findings as one line for the log."""
    identical, near = findings["identical"], findings["nearly_identical"]
    return (
        f"found {findings['blank']:,} blank images, {identical['images']:,} with an identical one "
        f"({identical['across_splits']:,} in another split), {near['pairs']:,} nearly identical pairs "
        f"({near['across_splits']:,} across splits); all are kept"
    )


def blank(pixels: np.ndarray) -> int:
    """How many of ``(N, H, W) uint8`` images have the same value in every pixel."""
    flat = pixels.reshape(len(pixels), -1)
    return int((flat.max(1) == flat.min(1)).sum())


def identical(pixels: np.ndarray, rows: pd.DataFrame) -> dict[str, int]:
    """How many images are identical to another one; and to one in another split, or with another label."""
    content = [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in pixels]
    groups = rows.groupby(content)
    duplicates = groups["label"].transform("size") > 1
    return {
        "across_splits": int((duplicates & (groups["split"].transform("nunique") > 1)).sum()),
        "images": int(duplicates.sum()),
        "with_another_label": int((duplicates & (groups["label"].transform("nunique") > 1)).sum()),
    }


def nearly_identical(pixels: np.ndarray, rows: pd.DataFrame) -> dict[str, int]:
    """How many pairs of images differ, but by at most ``NEAR``.

    The block means of two images differ no more than their pixels do, so a k-d tree of the means finds all candidates
    among 70,000 images in less than a second.
    """
    from scipy.spatial import cKDTree

    means, block = _block_means(pixels)
    radius = NEAR * (pixels[0].size / block) ** 0.5
    candidates = cKDTree(means).query_pairs(radius, output_type="ndarray")
    near = [pairs[_is_near(pixels, pairs)] for pairs in np.array_split(candidates, len(candidates) // CANDIDATES + 1)]
    first, second = np.concatenate(near).T
    label, split = rows["label"].to_numpy(), rows["split"].to_numpy()
    return {
        "across_splits": int((split[first] != split[second]).sum()),
        "pairs": len(first),
        "with_another_label": int((label[first] != label[second]).sum()),
    }


def _block_means(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Means of the ``BLOCKS`` of each image, ``(N, blocks)``, and the number of pixels in a block."""
    rows, columns = (min(parts, side) for parts, side in zip(BLOCKS, pixels.shape[1:], strict=True))
    height, width = pixels.shape[1] // rows, pixels.shape[2] // columns
    blocks = pixels[:, : rows * height, : columns * width].reshape(-1, rows, height, columns, width)
    return blocks.mean((2, 4), dtype=np.float32).reshape(len(pixels), -1), height * width


def _is_near(pixels: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which of ``(P, 2)`` pairs of images are nearly but not exactly identical, ``(P,) bool``."""
    difference = pixels[pairs[:, 0]].astype(np.float32) - pixels[pairs[:, 1]]
    squared = (difference**2).mean((1, 2))
    return np.asarray((squared > 0) & (squared <= NEAR**2))
