"""Folds: disjoint validation splits of the same size, stratified, without a cut group."""

from itertools import combinations

from classifier.errors import StageError
from classifier.prepare import splits
from tests.support.labeled import options

import numpy as np
import pandas as pd
import pytest


def rows(groups: bool) -> pd.DataFrame:
    frame = pd.DataFrame({"class_name": np.repeat(["cat", "dog"], [40, 80]), "split": "", "image": range(120)})
    if groups:
        frame["group"] = [f"place {number // 4}" for number in range(120)]
    return frame


@pytest.mark.parametrize("groups", [False, True])
def test_folds_are_disjoint_and_cover_all_images(groups: bool) -> None:
    folds = [set(splits.draw(rows(groups), 0.2, seed=3, fold=fold)) for fold in range(5)]
    assert all(not a & b for a, b in combinations(folds, 2))
    assert set.union(*folds) == set(range(120))
    for fold in folds:
        assert sum(index < 40 for index in fold) == 8
        assert len(fold) == 24
        if groups:
            assert all({4 * (index // 4) + place for place in range(4)} <= fold for index in fold)


def test_fold_takes_the_validation_images_and_leaves_the_test_images() -> None:
    drawn = []
    for fold in (0, 1):
        frame = rows(False)
        splits.complete(frame, options(validation_fold=fold))
        drawn.append(frame["split"])
    assert ((drawn[0] == "test") == (drawn[1] == "test")).all()
    assert not ((drawn[0] == "val") & (drawn[1] == "val")).any()
    assert (drawn[1] == "val").sum() == (drawn[0] == "val").sum() > 0


def test_images_with_a_validation_split_have_no_folds() -> None:
    frame = rows(False)
    frame.loc[::5, "split"] = "val"
    with pytest.raises(StageError, match=r"annotate\.validation_fold: must be 0, since the images come with"):
        splits.complete(frame, options(validation_fold=1))


def test_class_of_one_group_stays_in_training_with_all_of_the_group() -> None:
    """Such as a class whose images are all copies of one; there are two of them."""
    frame = rows(True)
    frame.loc[:19, ["class_name", "group"]] = ["cow", "copies of one"]
    frame.loc[[*range(20, 40), 119], "group"] = "copies of another"  # the last one is a dog
    splits.complete(frame, options())
    assert set(frame["split"]) == {"train", "val", "test"}
    assert set(frame.loc[frame["group"].str.startswith("copies"), "split"]) == {"train"}
