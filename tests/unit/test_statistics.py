"""Comparisons: intervals of paired differences, and two models on the same images."""

from classifier.errors import StageError
from classifier.experiments.models import compare
from classifier.experiments.statistics import paired

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats import binomtest

A, B = [0.91, 0.93, 0.92, 0.95], [0.90, 0.93, 0.90, 0.94]


def test_interval_by_seed_is_the_one_of_the_paired_t() -> None:
    found, wanted = paired(A, B), stats.ttest_rel(A, B).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.difference == pytest.approx(0.01)


def test_interval_by_fold_is_wider_by_the_correction() -> None:
    plain, corrected = paired(A, B), paired(A, B, validation_share=0.1)
    ratio = (corrected.high - corrected.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(np.sqrt((1 / 4 + 1 / 9) / (1 / 4)))


def test_words_say_which_is_better_or_that_none_is() -> None:
    better = paired([0.95, 0.951, 0.949], [0.90, 0.9, 0.9])
    assert better.describe("A", "B").endswith("A is better than B")
    assert better.describe("A", "B", higher_is_better=False).endswith("B is better than A")
    same = paired([0.9, 0.9], [0.9, 0.9])
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    for either in (same, paired([0.9, 0.95], [0.95, 0.9])):
        assert either.describe("A", "B").endswith("neither is shown to be better")


def test_interval_by_fold_holds_what_it_promises_where_the_plain_one_does_not() -> None:
    """Two recipes without a difference, on overlapping training sets: 95 % of the intervals must hold 0."""
    random = np.random.default_rng(0)
    missed = np.zeros(2)
    rounds = 300
    for _ in range(rounds):
        points = random.normal(size=(10, 10, 2))  # of ten folds; each recipe's model is a mean of its training points
        models = (points.sum((0, 1)) - points.sum(1, keepdims=True)) / 90
        a, b = ((points - models) ** 2).mean(1).T
        missed += [not found.low <= 0 <= found.high for found in (paired([*a], [*b]), paired([*a], [*b], 0.1))]
    plain, corrected = missed / rounds
    assert corrected <= 0.05 < plain


def predictions(right: list[bool]) -> pd.DataFrame:
    names = [f"{number:03d}.png" for number in range(len(right))]
    predicted = ["cat" if good else "dog" for good in right]
    return pd.DataFrame({"image": names, "label": "cat", "predicted": predicted})


def test_compare_equals_the_textbook() -> None:
    a = predictions([True] * 70 + [True] * 15 + [False] * 5 + [False] * 10)
    b = predictions([True] * 70 + [False] * 15 + [True] * 5 + [False] * 10)
    result = compare("a", a, "b", b)
    assert (result.a.accuracy, result.b.accuracy) == (0.85, 0.75)
    assert (result.a.only_correct, result.b.only_correct, result.num_images) == (15, 5, 100)
    assert result.p_value == pytest.approx(0.0414, abs=1e-4)  # 2 * P(X <= 5), X ~ Binomial(20, 1/2)
    assert result.in_words().startswith("a is better than b")
    interval = binomtest(85, 100).proportion_ci(method="wilson")
    assert (result.a.low, result.a.high) == (interval.low, interval.high)
    same = compare("a", a, "a", a)
    assert same.p_value == 1
    assert same.in_words().startswith("No significant difference")


def test_compare_ignores_order_and_refuses_other_images() -> None:
    a = predictions([True, False, True])
    assert compare("a", a, "b", a[::-1]).p_value == 1
    for other in (a[:2], a.assign(label="dog"), a.assign(image=["x", "y", "z"])):
        with pytest.raises(StageError, match="were not tested on the same images"):
            compare("a", a, "b", other)
