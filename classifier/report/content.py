"""The content of the page: pictures with their captions, and rows of its tables."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.data import images
from classifier.errors import StageError
from classifier.evaluate.metrics import wilson_interval
from classifier.report import figures, page

import numpy as np
import pandas as pd
from matplotlib.figure import Figure


def read_table(path: Path, index: str) -> pd.DataFrame:
    """Read a CSV that evaluate wrote; its index is text, as a class may be called NA or 1."""
    return pd.read_csv(path, dtype={index: "str"}, keep_default_na=False, index_col=index)


# --- pictures --------------------------------------------------------------------------------------------------------


def draw_mistakes(rows: pd.DataFrame, pixels: np.ndarray, most: int) -> Figure:
    """The most confident mistakes, each with its label and the prediction; of copies of one picture the first."""
    first = ~pd.Index([image.tobytes() for image in pixels]).duplicated()
    rows, pixels = rows[first][:most], pixels[first][:most]
    captions = [
        f"{row.label}\npredicted {row.predicted}\n({row.confidence:.1%})" for row in rows.itertuples(index=False)
    ]
    title = f"The {len(rows)} most confident mistakes" if len(rows) > 1 else "Mistakes"
    return figures.picture_grid(title, pixels, captions, [False] * len(rows), 5, "No mistakes.")


def draw_samples(rows: pd.DataFrame, pixels: np.ndarray) -> Figure:
    """Random test images with their predictions; mistakes name the label too."""
    right = (rows["label"] == rows["predicted"]).tolist()
    captions = [
        f"{row.predicted} {row.confidence:.0%}" + ("" if good else f"\nlabel: {row.label}")
        for row, good in zip(rows.itertuples(index=False), right, strict=True)
    ]
    title = "Random test images with prediction and confidence"
    return figures.picture_grid(title, pixels, captions, [not good for good in right], 8, "No images.")


# --- the page --------------------------------------------------------------------------------------------------------


def headline_metrics(evaluation: dict[str, Any]) -> list[dict[str, str]]:
    """Name, value and explanation of each figure, in the order of the page."""

    def fraction(name: str, key: str, note: str) -> dict[str, str]:
        value = evaluation[key]
        low, high = wilson_interval(value, evaluation["num_images"])
        return {"name": name, "value": f"{value:.2%}", "note": f"{low:.2%} to {high:.2%}{note}"}

    optional = [
        ("accuracy with TTA", "accuracy_tta", "; logits averaged over the image and its mirror image"),
        ("top-2 accuracy", "top_2_accuracy", "; the class is one of the two most probable"),
    ]
    return [
        fraction("accuracy", "accuracy", f"; always the most frequent class: {evaluation['majority_accuracy']:.2%}"),
        *(fraction(*row) for row in optional if row[1] in evaluation),
        {
            "name": "balanced accuracy",
            "value": f"{evaluation['balanced_accuracy']:.2%}",
            "note": "mean recall of the classes",
        },
        {"name": "macro F1", "value": f"{evaluation['f1']:.4f}", "note": "mean over the classes; 1 is best"},
        {
            "name": "loss",
            "value": f"{evaluation['loss']:.4f}",
            "note": f"cross entropy in nats; {evaluation['loss_uncalibrated']:.4f} before temperature scaling",
        },
        {"name": "Brier score", "value": f"{evaluation['brier_score']:.4f}", "note": "0 is best, 2 is worst"},
        {
            "name": "calibration error",
            "value": f"{evaluation['ece']:.2%}",
            "note": "ECE, the mean gap between confidence and accuracy in 15 bins; "
            f"{evaluation['ece_uncalibrated']:.2%} before temperature scaling",
        },
        {
            "name": "temperature",
            "value": f"{evaluation['temperature']:.3f}",
            "note": "fitted on the validation images; below 1: without it the model is underconfident",
        },
    ]


def mistake_rows(rows: pd.DataFrame, pixels: np.ndarray) -> list[dict[Any, Any]]:
    """The mistakes with thumbnails, as many as the page has room for."""
    records = rows.rename(columns={"probability of the label": "of_label"}).to_dict("records")
    return [{**row, "thumbnail": small} for row, small in zip(records, page.thumbnails(pixels), strict=False)]


def finding_rows(table: pd.DataFrame, readers: list[Callable[[str], bytes]]) -> list[dict[str, Any]]:
    """The findings of `annotate` in words, with thumbnails of the one or two images."""

    def thumbnail(name: str) -> str:
        for read in readers[:-1]:
            with contextlib.suppress(StageError):  # it is in another archive
                return next(page.thumbnails(images.decode(read(name), name)[None]))
        return next(page.thumbnails(images.decode(readers[-1](name), name)[None]))

    rows = []
    for row in table.to_dict("records"):
        shown = [(row["image"], row["label"], row["split"])]
        words = [row["finding"]]
        if row["other"]:
            shown.append((row["other"], row["other_label"], row["other_split"]))
            words += ["another label"] * (row["label"] != row["other_label"])
            words += ["another split"] * (row["split"] != row["other_split"])
        rows.append({"finding": ", ".join(words), "images": [(*image, thumbnail(image[0])) for image in shown]})
    return rows
