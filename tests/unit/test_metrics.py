"""Every formula that evaluate uses, against a library's; the temperature."""

import math
import warnings

from classifier.evaluate import metrics
from classifier.train.calibration import fit_temperature

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, precision_recall_fscore_support
from sklearn.metrics import top_k_accuracy_score as library_top_k
from torch.nn.functional import cross_entropy

CLASSES, IMAGES = 7, 500


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (IMAGES, CLASSES)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(logits: np.ndarray) -> np.ndarray:
    """Mostly, but not always, the most probable class."""
    random = np.random.default_rng(1)
    return np.where(random.random(IMAGES) < 0.6, logits.argmax(1), random.integers(0, CLASSES, IMAGES))


@pytest.mark.parametrize(("right", "count"), [(9396, 10000), (0, 10), (10, 10), (1, 3)])
def test_wilson_interval_equals_scipy(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert metrics.wilson_interval(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
def test_probabilities_loss_and_brier_score_equal_libraries(
    logits: np.ndarray, labels: np.ndarray, temperature: float
) -> None:
    found, expected = metrics.softmax(logits, temperature), softmax(logits.astype(np.float64) / temperature, axis=1)
    np.testing.assert_allclose(found, expected)
    loss = metrics.mean_loss(logits, labels, temperature)
    assert loss == pytest.approx(log_loss(labels, expected, labels=range(CLASSES)))
    score = brier_score_loss(labels, expected, labels=[*range(CLASSES)], scale_by_half=False)
    assert metrics.brier_score(found, labels) == pytest.approx(score)


def test_tied_classes_count_as_argmax_names_them() -> None:
    """A model that gives all classes the same logit is as good as chance; one without finite logits is never right."""
    same, labels = np.zeros((CLASSES, CLASSES)), np.arange(CLASSES)
    assert metrics.top_k_accuracy(same, labels, 1) == pytest.approx(1 / CLASSES)
    assert metrics.top_k_accuracy(same, labels, 2) == pytest.approx(2 / CLASSES)
    assert metrics.top_k_accuracy(same * np.nan, labels, 1) == 0


@pytest.mark.parametrize("k", [1, 2, CLASSES])
def test_top_k_accuracy_equals_scikit_learn(logits: np.ndarray, labels: np.ndarray, k: int) -> None:
    with warnings.catch_warnings(action="ignore"):  # every class is among the first seven of seven
        expected = library_top_k(labels, logits, k=k, labels=range(CLASSES))
    assert metrics.top_k_accuracy(logits, labels, k) == pytest.approx(expected)


def test_metrics_by_class_equal_scikit_learn(logits: np.ndarray, labels: np.ndarray) -> None:
    predicted = logits.argmax(1)
    predicted[predicted == 2] = 3  # a class that is never predicted
    counts = metrics.confusion(labels, predicted, CLASSES)
    assert (counts == confusion_matrix(labels, predicted)).all()
    rows = metrics.by_class(counts, [*"abcdefg"])
    expected = precision_recall_fscore_support(labels, predicted, zero_division=0)
    for column, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(rows[column], values)
    assert rows.index.tolist() == [*"abcdefg"]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_calibration_error_equals_torchmetrics(logits: np.ndarray, labels: np.ndarray, temperature: float) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error  # seconds, in one worker

    probabilities = metrics.softmax(logits, temperature)
    bins = metrics.reliability(probabilities, labels)
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), CLASSES, n_bins=metrics.BINS, norm="l1"
    )
    assert metrics.expected_calibration_error(bins) == pytest.approx(expected.item(), abs=1e-6)
    assert bins["num_images"].sum() == IMAGES
    assert (bins["confidence"] > bins["low"]).all()
    assert (bins["confidence"] <= bins["high"]).all()


def test_reliability_bin_includes_its_upper_edge() -> None:
    certain = np.array([[1.0, 0.0], [0.6, 0.4]])
    bins = metrics.reliability(certain, np.array([0, 1]))
    assert bins["high"].tolist() == pytest.approx([9 / 15, 1.0])
    assert bins["accuracy"].tolist() == [0.0, 1.0]
    assert metrics.expected_calibration_error(bins) == pytest.approx(0.3)


@pytest.mark.parametrize("scale", [0.3, 2.0])  # too modest, and too sure
def test_temperature_of_many_images_minimizes_the_loss(scale: float) -> None:
    logits = scale * torch.randn(6000, CLASSES)
    labels = torch.where(torch.rand(6000) < 0.6, logits.argmax(1), torch.randint(CLASSES, (6000,)))
    found = fit_temperature(logits.numpy(), labels.numpy())
    best = minimize_scalar(lambda inverse: cross_entropy(logits.double() * inverse, labels).item())
    assert found == pytest.approx(1 / best.x, rel=0.01)  # the prior is weak


@pytest.mark.parametrize("classes", [2, 10])
def test_few_images_that_are_all_right_do_not_make_the_model_sure(classes: int) -> None:
    """Without a prior, the best temperature is 0: all probabilities are then 0 or 1."""
    labels = torch.arange(16) % classes
    hesitant = 2.0 * torch.eye(classes)[labels]  # 88 % of two classes, 45 % of ten
    temperature = fit_temperature(hesitant.numpy(), labels.numpy())
    assert 0.3 < temperature < 1
    assert (hesitant / temperature).softmax(1).max() < 0.98


def test_temperature_is_finite_for_perfect_and_wrong_labels() -> None:
    """Labels that are always right would have a temperature of 0, and always wrong ones of infinity."""
    right = np.tile(np.arange(3), 300)
    for scale, labels in ((1, right), (0.02, right), (100, (right + 1) % 3)):
        logits = scale * np.eye(3, dtype=np.float32)[right]
        temperature = fit_temperature(logits, labels)
        assert math.isfinite(metrics.mean_loss(logits, labels, temperature))
