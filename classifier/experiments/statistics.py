"""Is one recipe better than another? Paired differences with an interval that does not promise too much."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class PairedComparison:
    """Two recipes, run under the same conditions.

    Attributes:
        count: of the pairs.
        mean_a, mean_b: of each recipe.
        deviation_a, deviation_b: standard deviations.
        difference: mean of a minus mean of b.
        low, high: 95 % interval of the difference.
    """

    count: int
    mean_a: float
    mean_b: float
    deviation_a: float
    deviation_b: float
    difference: float
    low: float
    high: float

    def describe(self, a: str, b: str, higher_is_better: bool = True) -> str:
        """The difference in words, for a person who has to decide."""
        figures = f"{self.difference:+.4f} (95 % interval {self.low:+.4f} to {self.high:+.4f}, {self.count} pairs)"
        if self.low <= 0 <= self.high:
            return f"{figures}: neither is shown to be better"
        better, worse = (a, b) if (self.difference > 0) == higher_is_better else (b, a)
        return f"{figures}: {better} is better than {worse}"


def paired_by_seed(a: Sequence[float], b: Sequence[float]) -> PairedComparison:
    """Compare runs that differ in the seed only; the interval is that of Student's paired t.

    Args:
        a: a figure of each run of one recipe, at least two.
        b: of the other recipe, with the same seeds in the same order.
    """
    return _compare(a, b, 1 / len(a))


def paired_by_fold(a: Sequence[float], b: Sequence[float], validation_share: float) -> PairedComparison:
    """Compare runs on k folds times seeds; the interval is that of the corrected resampled t.

    The training images of two folds overlap, so their results are not independent, and the plain t finds differences
    that are not there. The correction replaces 1/n by 1/n + n_validation/n_training. Source: Nadeau and Bengio,
    "Inference for the Generalization Error", 2003; for repeated folds: Bouckaert and Frank, "Evaluating the
    Replicability of Significance Tests for Comparing Learning Algorithms", 2004. A bootstrap of the runs would ignore
    the overlap as the plain t does.

    Args:
        a: a figure of each run of one recipe, at least two.
        b: of the other recipe, on the same folds with the same seeds in the same order.
        validation_share: of all images that are split into folds.
    """
    return _compare(a, b, 1 / len(a) + validation_share / (1 - validation_share))


def _compare(a: Sequence[float], b: Sequence[float], variance_factor: float) -> PairedComparison:

    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"two equally long lists of at least two figures are needed, not {len(first)} and {len(second)}"
        )
    differences = first - second
    mean = float(differences.mean())
    error = math.sqrt(variance_factor * float(differences.var(ddof=1)))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(first) - 1)) * error
    return PairedComparison(
        len(first), float(first.mean()), float(second.mean()), float(first.std(ddof=1)), float(second.std(ddof=1)),
        mean, mean - half, mean + half,
    )  # fmt: skip
