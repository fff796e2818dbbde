"""Classification metrics and calibration. Plain numpy: no model, no PyTorch.

Labels are ``(N,) int`` from 0; logits and probabilities are ``(N, classes) float``. scikit-learn has most of these
formulas, but importing it takes one of the three seconds that `evaluate` may take, and importing SciPy's special
functions a tenth of a second; the tests compare each formula with a library's.
"""

from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

BINS = 15  # confidence bins, as in Guo et al. 2017
DECIMALS = 6  # of the figures that are written


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities ``(N, classes)``; a temperature above 1 lowers the confidence but changes no prediction."""
    return np.asarray(np.exp(_log_softmax(logits, temperature)))


def _log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    shifted = scaled - scaled.max(1, keepdims=True)  # avoids overflow
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def mean_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean cross entropy, in nats."""
    return float(-_log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The fraction of images whose true class is among the k most probable ones; ties count as in argmax."""
    label_logits = logits[np.arange(len(labels)), labels][:, None]
    is_before = np.arange(logits.shape[1]) < labels[:, None]
    ahead = ~(logits <= label_logits) | (is_before & (logits == label_logits))  # not `>`: NaN is no hit
    return float((ahead.sum(1) < k).mean())


def wilson_interval(fraction: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The confidence interval of a fraction of ``count`` independent images (Wilson 1927), within 0 to 1."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    center = fraction + z * z / (2 * count)
    half = z * ((fraction * (1 - fraction) + z * z / (4 * count)) / count) ** 0.5
    scale = 1 + z * z / count
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix, ``(classes, classes) int64``: rows are true classes, columns predicted ones."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def by_class(counts: np.ndarray, class_names: list[str]) -> pd.DataFrame:
    """Precision, recall with its 95 % interval, F1 and support by class, from the confusion matrix; 0 if undefined."""
    correct, predicted, support = counts.diagonal(), counts.sum(0), counts.sum(1)
    recall = correct / np.maximum(support, 1)
    intervals = [
        wilson_interval(float(value), max(int(count), 1)) for value, count in zip(recall, support, strict=True)
    ]
    return pd.DataFrame(
        {
            "precision": correct / np.maximum(predicted, 1),
            "recall": recall,
            "recall_low": [low for low, _ in intervals],
            "recall_high": [high for _, high in intervals],
            "f1": 2 * correct / np.maximum(predicted + support, 1),
            "support": support,
        },
        index=pd.Index(class_names, name="class"),
    )


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean squared distance to the one-hot label, 0 to 2 (Brier 1950)."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(1).mean())


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Accuracy in equal-width bins of the confidence (the probability of the predicted class).

    Returns:
        One row per non-empty bin: ``low``, ``high``, ``num_images``, and their mean ``confidence`` and ``accuracy``,
        which are equal if the model is calibrated.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    number = pd.Series(np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1), name="bin")
    rows = pd.DataFrame({"confidence": confidence, "accuracy": correct}).groupby(number)
    bins = rows.mean()
    bins.insert(0, "low", edges[bins.index])
    bins.insert(1, "high", edges[bins.index + 1])
    bins.insert(2, "num_images", rows.size())
    return bins


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """The gap between confidence and accuracy, averaged over bins weighted by size (Naeini et al. 2015)."""
    distance = (bins["confidence"] - bins["accuracy"]).abs()
    return float((distance * bins["num_images"]).sum() / bins["num_images"].sum())


def compute_metrics(
    logits: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    mirrored_logits: np.ndarray | None = None,
) -> dict[str, Any]:
    """The figures of a test split as a whole, rounded, as metrics/evaluate/details.json has them.

    The probabilities are calibrated by that temperature; the mirrored logits are those of the mirror images, if the
    model was trained with such.
    """
    accuracy = top_k_accuracy(logits, labels, 1)
    low, high = wilson_interval(accuracy, len(labels))
    before, after = (reliability(each, labels) for each in (softmax(logits), probabilities))
    further = {}
    if mirrored_logits is not None:
        further["accuracy_mirrored"] = top_k_accuracy(mirrored_logits, labels, 1)
        further["accuracy_tta"] = top_k_accuracy((logits + mirrored_logits) / 2, labels, 1)
    if logits.shape[1] > 2:
        further["top_2_accuracy"] = top_k_accuracy(logits, labels, 2)
    figures: dict[str, Any] = round_values(
        {
            "accuracy": accuracy,
            "accuracy_interval": {"low": low, "high": high},
            "brier_score": brier_score(probabilities, labels),
            "ece": expected_calibration_error(after),
            "ece_uncalibrated": expected_calibration_error(before),
            "loss": mean_loss(logits, labels, temperature),
            "loss_uncalibrated": mean_loss(logits, labels),
            "num_images": len(labels),
            "temperature": temperature,
            "majority_accuracy": np.bincount(labels).max() / len(labels),
            **further,
        }
    )
    return figures


def round_values(values: Any) -> Any:
    """The same, also nested in dicts, with every fraction rounded."""
    if isinstance(values, dict):
        return {key: round_values(value) for key, value in values.items()}
    return values if isinstance(values, int) else round(values, DECIMALS) + 0.0  # no -0.0


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV with its index, rounded."""
    table.round(DECIMALS).to_csv(path, lineterminator="\n")
