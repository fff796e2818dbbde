"""The content of the page: pictures with their captions, and rows of its tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.data import images
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


def headline_metrics(evaluation: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and explanation of each figure, in the order of the page."""

    def fraction(name: str, key: str, note: str) -> tuple[str, str, str]:
        low, high = wilson_interval(evaluation[key], evaluation["num_images"])
        return name, f"{evaluation[key]:.2%}", f"{low:.2%} to {high:.2%}{note}"

    accuracies = [
        ("accuracy", "accuracy", f"; always the most frequent class: {evaluation['majority_accuracy']:.2%}"),
        ("accuracy with TTA", "accuracy_tta", "; logits averaged over the image and its mirror image"),
        ("top-2 accuracy", "top_2_accuracy", "; the class is one of the two most probable"),
    ]
    loss_before = f"cross entropy in nats; {evaluation['loss_uncalibrated']:.4f} before temperature scaling"
    ece_before = f"{evaluation['ece_uncalibrated']:.2%} before temperature scaling"
    return [
        *(fraction(*row) for row in accuracies if row[1] in evaluation),
        ("balanced accuracy", f"{evaluation['balanced_accuracy']:.2%}", "mean recall of the classes"),
        ("macro F1", f"{evaluation['f1']:.4f}", "mean over the classes; 1 is best"),
        ("loss", f"{evaluation['loss']:.4f}", loss_before),
        ("Brier score", f"{evaluation['brier_score']:.4f}", "0 is best, 2 is worst"),
        (
            "calibration error",
            f"{evaluation['ece']:.2%}",
            f"ECE, the mean gap between confidence and accuracy in 15 bins; {ece_before}",
        ),
        (
            "temperature",
            f"{evaluation['temperature']:.3f}",
            "fitted on the validation images; below 1: without it the model is underconfident",
        ),
    ]


def mistake_rows(rows: pd.DataFrame, pixels: np.ndarray) -> list[dict[Any, Any]]:
    """The mistakes with thumbnails, as many as the page has room for."""
    records = rows.rename(columns={"probability of the label": "of_label"}).to_dict("records")
    return [{**row, "thumbnail": small} for row, small in zip(records, page.thumbnails(pixels), strict=False)]


def finding_rows(
    table: pd.DataFrame, read_test: Callable[[str], bytes], read_other: Callable[[str], bytes]
) -> list[dict[str, Any]]:
    """The findings of `annotate` in words, with thumbnails of the one or two images."""

    def shown(name: str, label: str, split: str) -> tuple[str, str, str, str]:
        content = read_test(name) if split == "test" else read_other(name)
        return name, label, split, next(page.thumbnails(images.decode(content, name)[None]))

    rows = []
    for row in table.to_dict("records"):
        pictures = [shown(row["image"], row["label"], row["split"])]
        words = [row["finding"]]
        if row["other"]:
            pictures.append(shown(row["other"], row["other_label"], row["other_split"]))
            words += ["another label"] * (row["label"] != row["other_label"])
            words += ["another split"] * (row["split"] != row["other_split"])
        rows.append({"finding": ", ".join(words), "images": pictures})
    return rows
