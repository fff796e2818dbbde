"""Training, validation and test split: as the images come, or drawn by a seed."""

import hashlib
import re

from classifier.config.schema import Annotate
from classifier.errors import StageError

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_WORDS)}|t10k)(set|data)?(?![a-z])")  # t10k: MNIST's
ENOUGH = 3  # images or groups of a class, of which one is drawn in any case


def split_of(name: str) -> str:
    """The split that a folder or file names: test1, seg_train, valSet; empty if none, or more than one."""
    words = WORD.findall(re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("_set", "set"))
    splits = {SPLIT_WORDS.get(word, "test") for word, _ in words}
    return splits.pop() if len(splits) == 1 else ""


def draw(rows: pd.DataFrame, split: str, fraction: float, seed: int, fold: int = 0) -> pd.Series:
    """Which rows a split gets: each by a hash of its group or else its content, whatever the other rows are.

    So a set that grows moves no image, and copies, or images of one group, fall together. Two exceptions move one: a
    class of three images or groups that the split would have none of gives the one with the lowest hash, and a class
    that would have nothing else keeps the one with the highest, or all if it has one only.

    Args:
        rows: with the columns ``class_name``, ``content`` and ``group``, empty where an image belongs to none.
        split: its name; other splits are drawn independently.
        fraction: of the images, on average.
        seed: of the draw.
        fold: which of the disjoint splits of that size, from 0.

    Returns:
        ``(N,) bool``, by the index of the rows.
    """
    keys = _keys(rows)
    place = keys.drop_duplicates()
    place = pd.Series([_place(f"{split} {seed} {key}") for key in place], index=place)
    drawn = (place >= fold * fraction) & (place < (fold + 1) * fraction)
    of_classes = [place[of_class.unique()].sort_values().index for _, of_class in keys.groupby(rows["class_name"])]
    for names in of_classes:
        if len(names) >= ENOUGH and not drawn[names].any():
            drawn[names[min(fold, len(names) - 1)]] = True
    for names in of_classes:
        if drawn[names].all():
            drawn[names[-1]] = False
    return keys.map(drawn).astype(bool)


def _keys(rows: pd.DataFrame) -> pd.Series:
    """The group or else the content of each image, which stay in one split; groups that share a content are one."""
    groups, contents = rows["group"], rows["content"]
    if (groups == "").all():
        return contents
    keys = groups.where(groups != "", contents)
    first, second = (pd.factorize(each)[0] for each in (keys, contents))
    edges = coo_array((np.ones(len(rows)), (first, second + len(rows))), shape=(2 * len(rows), 2 * len(rows)))
    return keys.groupby(connected_components(edges, directed=False)[1][first]).transform("min")


def _place(text: str) -> float:
    """A number from 0 to 1 that follows from a text, as evenly as if it was drawn."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def complete(rows: pd.DataFrame, options: Annotate) -> list[str]:
    """Give every row a split, in place, and return what was drawn, a line each.

    Rows without a split are training images; what is missing is drawn from those.

    Raises:
        StageError: there is nothing to draw from.
    """
    notes = []
    rows["split"] = rows["split"].replace("", "train")
    if options.validation_fold and (rows["split"] == "val").any():
        raise StageError("annotate.validation_fold: must be 0, since the images come with a validation split")
    for split, fraction, fold in (
        ("test", options.test_fraction, 0),
        ("val", options.validation_fraction, options.validation_fold),
    ):
        if (rows["split"] == split).any() or not fraction:
            continue
        train = rows[rows["split"] == "train"]
        drawn = draw(train, split, fraction, options.seed, fold)
        rows.loc[drawn[drawn].index, "split"] = split
        notes.append(f"{split} split: {drawn.sum():,} of {len(train):,} training images, about {fraction:.0%}")
    for split in ("train", "test"):
        if not (rows["split"] == split).any():
            raise StageError(
                f"no {split} image: of {len(rows):,} images in {rows['class_name'].nunique():,} classes none could be "
                "drawn; more images of a class are needed, or a larger annotate.test_fraction"
            )
    return notes
