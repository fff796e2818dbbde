"""Drawn splits: a function of each image, so a set that grows moves none; folds are disjoint; no group is cut."""

from itertools import combinations

from classifier.errors import StageError
from classifier.prepare import splits
from tests.support.labeled import options

import numpy as np
import pandas as pd
import pytest


def rows(count: int = 200, groups: bool = False) -> pd.DataFrame:
    numbers = np.arange(count)
    frame = pd.DataFrame({"class_name": np.where(numbers % 3, "cat", "dog"), "split": ""})
    frame["group"] = [f"place {number // 4}" if groups else "" for number in numbers]
    frame["content"] = [f"content {number}" for number in numbers]
    return frame


def completed(frame: pd.DataFrame, **words: int) -> pd.Series:
    """The splits by content."""
    frame = frame.copy()
    splits.complete(frame, options(**words))
    of_content: pd.Series = frame.set_index("content")["split"]
    return of_content


@pytest.mark.parametrize("groups", [False, True])
def test_set_that_grows_or_shrinks_or_is_put_in_another_order_moves_no_image(groups: bool) -> None:
    small = completed(rows(200, groups))
    for other in (rows(2000, groups), rows(20000, groups), rows(200, groups)[::-1], rows(200, groups).drop(index=17)):
        common = small.index.intersection(pd.Index(other["content"]))
        assert len(common) >= 199
        assert completed(other)[common].equals(small[common])


@pytest.mark.parametrize("groups", [False, True])
def test_splits_have_about_their_fractions_and_another_seed_draws_others(groups: bool) -> None:
    found = completed(rows(20000, groups))
    assert found.eq("test").mean() == pytest.approx(0.2, abs=0.02)
    assert found.eq("val").mean() == pytest.approx(0.8 * 0.2, abs=0.02)
    other = completed(rows(20000, groups), seed=1)
    assert (found.eq("test") & other.eq("test")).mean() == pytest.approx(0.2 * 0.2, abs=0.02)


def test_images_of_a_group_and_copies_fall_together() -> None:
    frame = rows(2000, groups=True)
    frame.loc[1000:, "group"] = ""
    frame.loc[1000:, "content"] = [f"copy {number // 5}" for number in range(1000)]
    splits.complete(frame, options())
    together = frame["group"].where(frame["group"] != "", frame["content"])
    assert frame.groupby(together)["split"].nunique().max() == 1
    assert frame["split"].nunique() == 3


@pytest.mark.parametrize("groups", [False, True])
def test_folds_are_disjoint_and_cover_all_images(groups: bool) -> None:
    frame = rows(200, groups)
    folds = [set(frame.index[splits.draw(frame, "val", 0.2, seed=3, fold=fold)]) for fold in range(5)]
    assert all(not a & b for a, b in combinations(folds, 2))
    assert set.union(*folds) == set(range(200))
    assert all(20 < len(fold) < 60 for fold in folds)


def test_fold_takes_the_validation_images_and_leaves_the_test_images() -> None:
    first, second = completed(rows()), completed(rows(), validation_fold=1)
    assert first.eq("test").equals(second.eq("test"))
    assert not (first.eq("val") & second.eq("val")).any()
    assert second.eq("val").any()


def test_images_with_a_validation_split_have_no_folds() -> None:
    frame = rows()
    frame.loc[::5, "split"] = "val"
    with pytest.raises(StageError, match=r"annotate\.validation_fold: must be 0, since the images come with"):
        splits.complete(frame, options(validation_fold=1))


@pytest.mark.parametrize("seed", range(5))
def test_small_class_has_an_image_in_each_split_if_it_has_enough(seed: int) -> None:
    frame = rows(400)
    for number, size in enumerate((1, 2, 3, 4, 6)):
        frame.loc[10 * number : 10 * number + size - 1, "class_name"] = f"rare {size}"
    splits.complete(frame, options(seed=seed))
    of_class = frame.groupby("class_name")["split"].agg(set)
    assert all("train" in found for found in of_class)
    assert of_class["rare 1"] == {"train"}
    assert all("test" in of_class[f"rare {size}"] for size in (3, 4, 6))
    assert of_class["rare 6"] == {"train", "val", "test"}


def test_class_of_one_group_stays_in_training_with_all_of_the_group() -> None:
    """Such as a class whose images are all copies of one; there are two of them."""
    for seed in range(9):
        frame = rows(400, groups=True)
        frame.loc[:19, ["class_name", "group"]] = ["cow", "copies of one"]
        frame.loc[[*range(20, 40), 119], "group"] = "copies of another"
        frame.loc[20:39, "class_name"] = "sheep"  # row 119 is not one
        splits.complete(frame, options(seed=seed))
        assert set(frame["split"]) == {"train", "val", "test"}
        assert set(frame.loc[frame["group"].str.startswith("copies"), "split"]) == {"train"}


def test_images_that_are_all_of_a_given_test_split_are_refused_in_a_line() -> None:
    with pytest.raises(StageError, match=r"no train image: of 200 images in 2 classes none could be drawn"):
        splits.complete(rows().assign(split="test"), options())
