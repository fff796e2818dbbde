"""Training, validation and test split: as the images come, or drawn by a seed."""

import itertools
import re
import warnings

from classifier.config.schema import Annotate
from classifier.errors import StageError

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_WORDS)}|t10k)(set|data)?(?![a-z])")  # t10k: MNIST's
ENOUGH = 3  # images of a class, of which one is drawn even if the fraction of them is less


def split_of(name: str) -> str:
    """The split that a folder or file names: test1, seg_train, valSet; empty if none, or more than one."""
    words = WORD.findall(re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("_set", "set"))
    splits = {SPLIT_WORDS.get(word, "test") for word, _ in words}
    return splits.pop() if len(splits) == 1 else ""


def draw(rows: pd.DataFrame, fraction: float, seed: int, fold: int = 0) -> pd.Index:
    """The rows of a split drawn from these: that fraction of every class; no group is cut.

    Args:
        rows: with the columns ``class_name`` or ``label``, and ``group`` if some images belong together.
        fraction: of the rows; with groups, as near to it as whole groups allow.
        seed: of the draw.
        fold: which of the disjoint splits of that size, from 0.
    """
    by = "label" if "label" in rows else "class_name"
    if "group" not in rows or not (rows["group"] != "").any():
        shuffled = rows.groupby(by).sample(frac=1, random_state=seed)
        of_class = shuffled.groupby(by)[by]
        place, size = of_class.cumcount(), (of_class.transform("size") * fraction).round()
        drawn = shuffled.index[(place >= fold * size) & (place < (fold + 1) * size)]
        rare = rows[~rows[by].isin(rows.loc[drawn, by])].groupby(by).filter(lambda of_class: len(of_class) >= ENOUGH)
        return drawn.append(rare.groupby(by).sample(1, random_state=seed).index) if len(rare) else drawn

    groups = rows["group"].where(rows["group"] != "", "row " + rows.index.astype(str))
    only = groups[groups.groupby(rows[by]).transform("nunique") == 1]  # all of a class, which must be learned
    rows = rows[~groups.isin(only)]
    groups = groups[rows.index]
    folds = min(max(2, round(1 / fraction)), groups.nunique(), rows[by].value_counts().max())
    if folds < 2:
        return rows.index[:0]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer groups than folds
        _, chosen = next(itertools.islice(splitter.split(rows, rows[by], groups), fold % folds, None))
    of_groups: pd.Index = rows.index[chosen]
    return of_groups


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
        drawn = draw(rows[rows["split"] == "train"], fraction, options.seed, fold)
        rows.loc[drawn, "split"] = split
        notes.append(f"{split} split: {len(drawn):,} images drawn from the training images")
    for split in ("train", "test"):
        if not (rows["split"] == split).any():
            if split == "train" and options.validation_fraction > 0.5:
                raise StageError("annotate.validation_fraction: leaves no image to train with; a smaller one would")
            raise StageError(
                f"no {split} image: of {len(rows):,} images in {rows['class_name'].nunique():,} classes none could be "
                "drawn; more images of a class are needed, or a larger annotate.test_fraction"
            )
    return notes
