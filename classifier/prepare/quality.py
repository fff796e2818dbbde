"""Data quality issues of a dataset that can be used all the same: counted and reported, never fixed.

Everybody reports results on the official test images; dropping one would make it a different benchmark.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

NEAR = 4.0  # gray levels of 255: the largest root mean squared difference of two nearly identical images
BLOCKS = (3, 4)  # rows and columns per image; more blocks give fewer candidates but a slower search
COMPARED_BYTES = 1 << 26  # of pixels that are compared at once
MAX_CANDIDATES = 5_000_000  # pairs; of more, each image is compared with its nearest ones only
NEAREST = 16
LISTED = 500  # rows of the table of findings that are written
SKETCH = "sketch_"  # begins the names of columns
COLUMNS = ["finding", "image", "other", "label", "split", "other_label", "other_split"]  # of those


def describe(pixels: np.ndarray) -> pd.DataFrame:
    """A few numbers of each of ``(N, C, H, W) uint8`` images: ``blank``, ``digest`` and the columns of its sketch."""
    flat = pixels.reshape(len(pixels), -1)
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in pixels]
    numbers = pd.DataFrame(sketch(pixels)).add_prefix(SKETCH)
    return numbers.assign(blank=flat.max(1) == flat.min(1), digest=digests)


def findings(
    rows: pd.DataFrame, figures: pd.DataFrame, lookup: Callable[[np.ndarray], np.ndarray]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The counts as metrics/annotate.json holds them, and the images that they count.

    Args:
        rows: the annotations of the images, with ``image``, ``class_name``, ``split``, ``group``.
        figures: of the images, from ``describe``.
        lookup: the images at ``(n,) int``, ``(n, C, H, W) uint8``.

    Returns:
        Counts, and a table of what they count, the worst first: ``COLUMNS`` (a blank image has no other one),
        ``labels_differ`` and ``splits_differ``.
    """
    blank = figures["blank"].to_numpy().nonzero()[0]
    pairs = {
        "blank": (blank, blank),
        "identical": _identical(figures["digest"]),
        "nearly identical": _nearly_identical(figures, lookup),
        "same group": _cut_groups(rows),
    }
    table = pd.DataFrame({"finding": np.repeat([*pairs], [len(places) for places, _ in pairs.values()])})
    first, second = (np.concatenate(places) for places in zip(*pairs.values(), strict=True))
    for prefix, places in (("", first), ("other_", second)):
        for name, column in (("image", "image"), ("label", "class_name"), ("split", "split")):
            table[prefix + name] = rows[column].to_numpy()[places]
    for part in ("label", "split"):
        table[f"{part}s_differ"] = table[part] != table[f"other_{part}"]
    table = table.rename(columns={"other_image": "other"})
    table.loc[table["finding"] == "blank", ["other", "other_label", "other_split"]] = ""
    order = ["labels_differ", "splits_differ", "finding", "image", "other"]
    table = table.sort_values(order, ascending=[False, False, True, True, True], ignore_index=True)
    near = table[table["finding"] == "nearly identical"]
    counts = {
        "blank": len(blank),
        "groups_in_several_splits": rows["group"].iloc[pairs["same group"][0]].nunique(),
        "identical": _images_with_an_identical_one(rows, figures["digest"]),
        "nearly_identical": {
            "across_splits": int(near["splits_differ"].sum()),
            "pairs": len(near),
            "with_another_label": int(near["labels_differ"].sum()),
        },
    }
    return counts, table


def _images_with_an_identical_one(rows: pd.DataFrame, digests: pd.Series) -> dict[str, int]:
    groups = rows.groupby(digests.to_numpy())
    duplicates = groups["class_name"].transform("size") > 1
    return {
        "across_splits": int((duplicates & (groups["split"].transform("nunique") > 1)).sum()),
        "images": int(duplicates.sum()),
        "with_another_label": int((duplicates & (groups["class_name"].transform("nunique") > 1)).sum()),
    }


def _identical(digests: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Pairs: the first of images that are identical, and each of the others."""
    place = pd.Series(range(len(digests)))
    first = place.groupby(digests.to_numpy()).transform("first").to_numpy()
    later = (first != place.to_numpy()).nonzero()[0]
    return first[later], later


def _nearly_identical(
    figures: pd.DataFrame, lookup: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that differ, but by at most ``NEAR``.

    A k-d tree of the sketches finds all candidates among 70,000 images in a few seconds. Of identical images one
    is compared.
    """
    groups = pd.Series(range(len(figures))).groupby(figures["digest"].to_numpy(), sort=False)
    first = groups.first().to_numpy()
    pixels_per_image = lookup(first[:1]).size
    radius = (NEAR + 1e-6) * pixels_per_image**0.5  # a little more, as sums are rounded
    candidates = first[_candidates(figures.filter(like=SKETCH).to_numpy()[first], radius)]
    parts = np.array_split(candidates, len(candidates) * 4 * pixels_per_image // COMPARED_BYTES + 1)
    near = np.concatenate([pairs[_is_near(lookup, pairs)] for pairs in parts])
    sizes = groups.transform("size").to_numpy()[near]
    if (sizes > 1).any() and sizes.prod(1).sum() <= MAX_CANDIDATES:  # list their copies, too, unless it is too much
        copies = pd.DataFrame({"of": groups.transform("first")}).rename_axis("image").reset_index()
        pairs = pd.DataFrame(near, columns=["a", "b"]).merge(copies, left_on="a", right_on="of")
        pairs = pairs.merge(copies, left_on="b", right_on="of", suffixes=("_a", "_b"))
        near = np.sort(pairs[["image_a", "image_b"]].to_numpy(), axis=1)
    first, second = near.T
    return first, second


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


def sketch(pixels: np.ndarray) -> np.ndarray:
    """A few numbers for each of ``(N, C, H, W)`` images, ``(N, blocks) float``: the sums of blocks of its pixels.

    Each is divided by the root of the pixels in the block, so two images are nowhere nearer than their numbers.
    """
    rows, columns = (
        np.arange(0, side, -(-side // parts)) for side, parts in zip(pixels.shape[2:], BLOCKS, strict=True)
    )

    def sums(planes: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(planes.sum(1, dtype=np.float64), rows, axis=1), columns, axis=2)

    return np.asarray(sums(pixels) / sums(np.ones_like(pixels[:1])) ** 0.5).reshape(len(pixels), -1)


def _candidates(sketches: np.ndarray, radius: float) -> np.ndarray:
    """Pairs whose sketches are that near, ``(P, 2) int``, the smaller number first; not too many of them."""
    tree = cKDTree(sketches)
    if (tree.count_neighbors(tree, radius) - len(sketches)) / 2 <= MAX_CANDIDATES:
        return np.asarray(tree.query_pairs(radius, output_type="ndarray"))
    distances, nearest = tree.query(sketches, min(NEAREST + 1, len(sketches)), distance_upper_bound=radius)
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
