"""The figures of a test split as a whole, as metrics/evaluate/details.json has them."""

from pathlib import Path
from typing import Any

from classifier.evaluate import metrics

import numpy as np
import pandas as pd

DECIMALS = 6


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
    accuracy = metrics.top_k_accuracy(logits, labels, 1)
    low, high = metrics.wilson_interval(accuracy, len(labels))
    before, after = (metrics.reliability(each, labels) for each in (metrics.softmax(logits), probabilities))
    further = {}
    if mirrored_logits is not None:
        further["accuracy_mirrored"] = metrics.top_k_accuracy(mirrored_logits, labels, 1)
        further["accuracy_tta"] = metrics.top_k_accuracy((logits + mirrored_logits) / 2, labels, 1)
    if logits.shape[1] > 2:
        further["top_2_accuracy"] = metrics.top_k_accuracy(logits, labels, 2)
    return round_values(
        {
            "accuracy": accuracy,
            "accuracy_interval": {"low": low, "high": high},
            "brier_score": metrics.brier_score(probabilities, labels),
            "ece": metrics.expected_calibration_error(after),
            "ece_uncalibrated": metrics.expected_calibration_error(before),
            "loss": metrics.mean_loss(logits, labels, temperature),
            "loss_uncalibrated": metrics.mean_loss(logits, labels),
            "num_images": len(labels),
            "temperature": temperature,
            "majority_accuracy": np.bincount(labels).max() / len(labels),
            **further,
        }
    )


def round_values(values: dict[str, Any]) -> dict[str, Any]:
    """The same with every fraction rounded."""
    return {
        str(key): round_values(value)
        if isinstance(value, dict)
        else value
        if isinstance(value, int)
        else round(value, DECIMALS) + 0.0  # no -0.0
        for key, value in values.items()
    }


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV with its index, rounded."""
    table.round(DECIMALS).to_csv(path, lineterminator="\n")
