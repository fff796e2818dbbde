"""metrics/predictions.csv: one row a test image, with the calibrated probability of each class."""

from dataclasses import dataclass
from pathlib import Path

from classifier.errors import StageError
from classifier.evaluate import metrics

import numpy as np
import pandas as pd

PROBABILITY = "probability of "  # begins the name of a column
TEXT = ("image", "label", "predicted")


@dataclass(frozen=True)
class Predictions:
    """The predictions for the test images.

    Attributes:
        rows: the table, with one more column, ``confidence``: the probability of the predicted class.
        class_names: of classes 0, 1, ...
        confusion: ``(classes, classes) int``, a row for each true class.
    """

    rows: pd.DataFrame
    class_names: list[str]
    confusion: np.ndarray

    @property
    def correct(self) -> pd.Series:
        """Which predictions are correct, ``(N,) bool``."""
        return self.rows["label"] == self.rows["predicted"]

    def most_confident_mistakes(self) -> pd.DataFrame:
        """All wrong predictions, the most confident first, then by name."""
        return self.rows[~self.correct].sort_values(["confidence", "image"], ascending=[False, True])


def write(path: Path, images: list[str], labels: np.ndarray, class_names: list[str], probabilities: np.ndarray) -> None:
    """Write the table of N images, by their names, with labels ``(N,)`` and probabilities ``(N, classes)``."""
    names = np.array(class_names)
    rows = pd.DataFrame({"image": images, "label": names[labels], "predicted": names[probabilities.argmax(1)]})
    for name, column in zip(class_names, probabilities.T.tolist(), strict=True):
        # twice as fast as float_format
        rows[f"{PROBABILITY}{name}"] = [f"{value:.{metrics.DECIMALS}f}" for value in column]
    rows.to_csv(path, index=False, lineterminator="\n")


def read(path: Path) -> Predictions:
    """Read the table.

    Raises:
        StageError: it is not one that ``write`` wrote.
    """
    rows = pd.read_csv(path, dtype=dict.fromkeys(TEXT, "str"), keep_default_na=False)  # a class may be called NA
    columns = [name for name in rows.columns if name.startswith(PROBABILITY)]
    class_names = [name.removeprefix(PROBABILITY) for name in columns]
    if rows.empty or not {*TEXT} <= set(rows) or not set(rows["label"]) <= set(class_names):
        raise StageError(f"{path}: not the predictions of this pipeline; `dvc repro evaluate` makes them")
    number = {name: label for label, name in enumerate(class_names)}
    labels, predicted = (rows[column].map(number).to_numpy(np.int64) for column in ("label", "predicted"))
    probabilities = rows[columns].to_numpy(np.float64)
    rows = rows[[*TEXT]].copy()
    rows["confidence"] = probabilities[np.arange(len(rows)), predicted]
    rows["probability of the label"] = probabilities[np.arange(len(rows)), labels]
    return Predictions(rows, class_names, metrics.confusion(labels, predicted, len(class_names)))
