"""The content of the page: what it is made from, pictures with their captions, and rows of its tables."""

import json
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
from safetensors import SafetensorError, safe_open

MAX_FILTERS = 64  # that the figure shows
KEY = "model"  # the metadata key, see serialization.py; not imported from there, since that needs PyTorch


def read_table(path: Path, index: str) -> pd.DataFrame:
    """Read a CSV that evaluate wrote; its index is text, as a class may be called NA or 1."""
    return pd.read_csv(path, dtype={index: "str"}, keep_default_na=False, index_col=index)


def read_model(path: Path) -> tuple[dict[str, Any], np.ndarray | None]:
    """Read the model file that `train` wrote, with numpy alone.

    Returns:
        Its config, and the first filters of the first layer, ``(N, C, H, W)`` with C 1 or 3. A linear layer on whole
        images has one weight per pixel, so each unit is drawn as an image. None if the layer has neither form.

    Raises:
        StageError: the file is not a model of this pipeline.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            model_config: dict[str, Any] = json.loads((file.metadata() or {})[KEY])
            image = (model_config["channels"], model_config["height"], model_config["width"])
            weights = [name for name in file.keys() if name.endswith(".weight")]  # noqa: SIM118 (not a mapping)
            first = min(weights, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])
            filters = np.asarray(file.get_tensor(first), np.float64)[:MAX_FILTERS]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StageError(f"{path}: not a model of this pipeline ({error}); `dvc repro train` makes one") from None
    if filters.ndim == 2 and filters.shape[1] == np.prod(image):
        filters = filters.reshape(-1, *image)
    drawable = filters.ndim == 4 and filters.shape[1] in (1, 3)
    return model_config, filters if drawable else None


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
