"""Data quality issues of a dataset that can be used all the same: counted and reported, never fixed.

Everybody reports results on the official test images; dropping one would make it a different benchmark.
"""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.prepare import near_duplicates

import numpy as np
import pandas as pd

LISTED = 500  # rows of the table of findings that are written
COLUMNS = ["finding", "image", "other", "label", "split", "other_label", "other_split"]  # of those


def describe(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """``blank``, ``digest`` (of shape and pixels) and a sketch of each of ``(N, C, H, W) uint8`` images."""
    flat = pixels.reshape(len(pixels), math.prod(pixels.shape[1:]))  # of no images, too
    shape = repr(pixels.shape[1:]).encode()
    digests = [hashlib.blake2b(shape + image.tobytes(), digest_size=16).hexdigest() for image in pixels]
    return {
        "blank": flat.max(1) == flat.min(1),
        "digest": np.array(digests, "S32"),
        "sketch": near_duplicates.sketch(pixels),
    }


def findings(
    rows: pd.DataFrame, figures: dict[str, np.ndarray], lookup: Callable[[np.ndarray], np.ndarray], memory: Path
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The counts as metrics/annotate.json holds them, and the images that they count.

    Args:
        rows: the annotations of the images, with ``image``, ``class_name``, ``split``, ``group``.
        figures: of the images, from ``describe``.
        lookup: the images at ``(n,) int``, ``(n, C, H, W) uint8``.
        memory: the file for what is remembered of earlier searches.

    Returns:
        Counts, and a table of what they count, the worst first: ``COLUMNS`` (a blank image has no other one),
        ``labels_differ`` and ``splits_differ``.
    """
    blank = figures["blank"].nonzero()[0]
    pairs = {
        "blank": (blank, blank),
        "identical": _identical(figures["digest"]),
        "nearly identical": _nearly_identical(figures, lookup, memory),
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


def _images_with_an_identical_one(rows: pd.DataFrame, digests: np.ndarray) -> dict[str, int]:
    groups = rows.groupby(digests)
    duplicates = groups["class_name"].transform("size") > 1
    return {
        "across_splits": int((duplicates & (groups["split"].transform("nunique") > 1)).sum()),
        "images": int(duplicates.sum()),
        "with_another_label": int((duplicates & (groups["class_name"].transform("nunique") > 1)).sum()),
    }


def _identical(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs: the first of images that are identical, and each of the others."""
    place = pd.Series(range(len(digests)))
    first = place.groupby(digests).transform("first").to_numpy()
    later = (first != place.to_numpy()).nonzero()[0]
    return first[later], later


def _nearly_identical(
    figures: dict[str, np.ndarray], lookup: Callable[[np.ndarray], np.ndarray], memory: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that differ, but by little. Of identical images one is compared."""
    groups = pd.Series(range(len(figures["digest"]))).groupby(figures["digest"], sort=False)
    first = groups.first().to_numpy()
    chosen = first if len(first) < len(figures["digest"]) else slice(None)  # all, without a copy
    digests, sketches = figures["digest"][chosen], figures["sketch"][chosen]
    found = near_duplicates.find(digests, sketches, lambda places: lookup(first[places]), memory)
    near = first[found]
    sizes = groups.transform("size").to_numpy()[near]
    count = sizes.prod(axis=1).sum()  # of pairs, with the copies of each image
    if (sizes > 1).any() and count <= near_duplicates.MAX_CANDIDATES:
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
