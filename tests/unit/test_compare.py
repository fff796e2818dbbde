"""The comparison of two models."""

from classifier.errors import StageError
from classifier.experiments.models import compare

import pandas as pd
import pytest
from scipy.stats import binomtest


def predictions(right: list[bool]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": [f"{number:03d}.png" for number in range(len(right))],
            "label": "cat",
            "predicted": ["cat" if good else "dog" for good in right],
        }
    )


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
