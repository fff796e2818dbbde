"""Show an evaluation to a person: pictures for DVC, and one self-contained page.

reads   metrics/predictions.csv, metrics/train/curves.csv, metrics/annotate/findings.csv, data/test_images.zip,
        data/images.zip, in metrics/evaluate/: details.json, classes.csv, reliability.csv; the model (for the params
        that it was trained with and the first layer's filters); params.yaml: report
writes  metrics/report.html, metrics/report/*.png
run     dvc repro report, or: python -m stages.report; then open metrics/report.html in a browser
expect  a few seconds; no PyTorch and no network; the page is smaller than 2 MB and makes no request
"""

import classifier.runner  # noqa: F401 (first of all: Ctrl-C ends the program without a traceback)

# isort: split
import contextlib
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.errors import StageError
from classifier.runner.stage import run_stage

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from classifier.runner.context import StageContext

PROBABILITY = "probability of "
MISTAKES_DRAWN = 25
FINDINGS_SHOWN = 30  # rows with their images
LIBRARIES = ("torch", "numpy", "scipy", "pandas", "pillow", "safetensors", "matplotlib", "dvc")  # named on the page

logger = logging.getLogger("stages.report")


def main(context: "StageContext") -> None:
    """Read what evaluate wrote, draw, write the page."""
    import numpy as np
    import pandas as pd

    from classifier import yaml_file
    from classifier.data import images
    from classifier.data.pictures import drawable_names
    from classifier.report import figures, model_summary, page
    from classifier.seeds import derive_seed

    options = context.params.report
    evaluation = read_details(context.dep("metrics/evaluate/details.json"))
    by_class = read_table(context.dep("metrics/evaluate/classes.csv"), "class")
    bins = read_table(context.dep("metrics/evaluate/reliability.csv"), "scaling")
    predictions = read_predictions(context.dep("metrics/predictions.csv"))
    read = images.reader(context.dep("data/test_images.zip"))
    findings = pd.read_csv(context.dep("metrics/annotate/findings.csv"), dtype="str", keep_default_na=False)
    read_other = images.reader(context.dep("data/images.zip"))
    curves = pd.read_csv(context.dep("metrics/train/curves.csv"))
    model = model_summary.read(context.dep("models/classifier.safetensors"))

    mistakes = predictions.most_confident_mistakes().head(max(options.mistakes, MISTAKES_DRAWN))
    generator = np.random.default_rng(derive_seed(options.seed, "samples"))
    size = min(options.samples, len(predictions.rows))
    samples = predictions.rows.iloc[np.sort(generator.choice(len(predictions.rows), size, replace=False))]
    of_mistakes, of_samples = (images.stack(rows["image"], len(rows), read) for rows in (mistakes, samples))

    names = dict(zip(predictions.class_names, drawable_names(predictions.class_names), strict=True))
    drawn_mistakes, drawn_samples = (rows.replace({"label": names, "predicted": names}) for rows in (mistakes, samples))
    draw: dict[str, Callable[[], Figure]] = {
        "confusion": lambda: figures.confusion(predictions.confusion(), [*names.values()]),
        "f1": lambda: figures.f1_bars(by_class.rename(index=names)),
        "reliability": lambda: draw_reliability(bins, evaluation),
        "mistakes": lambda: draw_mistakes(drawn_mistakes[:MISTAKES_DRAWN], of_mistakes[:MISTAKES_DRAWN]),
        "samples": lambda: draw_samples(drawn_samples, of_samples),
        "filters": lambda: figures.filters(model.filters),
    }
    pictures = {name: page.picture(function) for name, function in draw.items()}
    for name, picture in pictures.items():
        context.out(f"metrics/report/{name}.png").write_bytes(picture.png)
    pictures["curves"] = page.picture(lambda: figures.curves(curves))  # DVC draws these itself

    written = page.write(
        context.out("metrics/report.html"),
        model=model.architecture,
        num_images=evaluation["num_images"],
        metrics=headline_metrics(evaluation),
        classes=class_rows(by_class),
        pictures=pictures,
        mistakes=mistake_rows(mistakes[: options.mistakes], of_mistakes),
        findings=finding_rows(findings.head(FINDINGS_SHOWN), [read, read_other]),
        num_mistakes=int((~predictions.correct).sum()),
        params=yaml_file.flatten(model.trained_with),
        versions=page.versions(LIBRARIES),
    )
    logger.info(f"wrote metrics/report.html: {written:,} bytes; open it in a browser")


@dataclass(frozen=True)
class Predictions:
    """The predictions for the test images.

    Attributes:
        rows: the table, with one more column, ``confidence``: the probability of the predicted class.
        class_names: of classes 0, 1, ...
        labels, predicted: ``(N,) int``, classes by number.
        probabilities: ``(N, classes) float``.
    """

    rows: "pd.DataFrame"
    class_names: list[str]
    labels: "np.ndarray"
    predicted: "np.ndarray"
    probabilities: "np.ndarray"

    @property
    def correct(self) -> "pd.Series":
        """Which predictions are correct, ``(N,) bool``."""
        return self.rows["label"] == self.rows["predicted"]

    def confusion(self) -> "np.ndarray":
        """``(classes, classes) int``, a row for each true class."""
        from classifier.model import metrics

        return metrics.confusion(self.labels, self.predicted, len(self.class_names))

    def most_confident_mistakes(self) -> "pd.DataFrame":
        """All wrong predictions, the most confident first, then by name."""
        return self.rows[~self.correct].sort_values(["confidence", "image"], ascending=[False, True])


def read_details(path: Path) -> dict[str, Any]:
    """Read metrics/evaluate/details.json.

    Raises:
        StageError: it is not JSON.
    """
    try:
        details: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{path}: not a JSON file ({error}); `dvc repro evaluate` makes it") from None
    return details


def read_table(path: Path, index: str) -> "pd.DataFrame":
    """Read a CSV that evaluate wrote; its index is text, as a class may be called NA or 1."""
    import pandas as pd

    return pd.read_csv(path, dtype={index: "str"}, keep_default_na=False, index_col=index)


def read_predictions(path: Path) -> Predictions:
    """Read metrics/predictions.csv.

    Raises:
        StageError: it is not what evaluate writes.
    """
    import numpy as np
    import pandas as pd

    dtype = dict.fromkeys(("image", "label", "predicted"), "str")
    rows = pd.read_csv(path, dtype=dtype, keep_default_na=False)  # a class may be called NA
    columns = [name for name in rows.columns if name.startswith(PROBABILITY)]
    class_names = [name.removeprefix(PROBABILITY) for name in columns]
    if rows.empty or not {"image", "label", "predicted"} <= set(rows) or not set(rows["label"]) <= set(class_names):
        raise StageError(f"{path}: not the predictions of this pipeline; `dvc repro evaluate` makes them")
    number = {name: label for label, name in enumerate(class_names)}
    labels, predicted = (rows[column].map(number).to_numpy(np.int64) for column in ("label", "predicted"))
    probabilities = rows[columns].to_numpy(np.float64)
    rows = rows[["image", "label", "predicted"]].copy()
    rows["confidence"] = probabilities[np.arange(len(rows)), predicted]
    rows["probability of the label"] = probabilities[np.arange(len(rows)), labels]
    return Predictions(rows, class_names, labels, predicted, probabilities)


# --- pictures --------------------------------------------------------------------------------------------------------


def draw_reliability(bins: "pd.DataFrame", evaluation: dict[str, Any]) -> "Figure":
    """Accuracy by confidence before and after temperature scaling."""
    from classifier.report import figures

    eces = evaluation["ece_uncalibrated"], evaluation["ece"]
    return figures.reliability(bins.loc[["none"]], bins.loc[["temperature"]], eces, evaluation["temperature"])


def draw_mistakes(rows: "pd.DataFrame", pixels: "np.ndarray") -> "Figure":
    """The most confident mistakes, each with its label and the prediction."""
    from classifier.report import figures

    captions = [
        f"{row.label}\npredicted {row.predicted}\n({row.confidence:.1%})" for row in rows.itertuples(index=False)
    ]
    title = f"The {len(rows)} most confident mistakes" if len(rows) > 1 else "Mistakes"
    return figures.picture_grid(title, pixels, captions, [False] * len(rows), 5, "No mistakes.")


def draw_samples(rows: "pd.DataFrame", pixels: "np.ndarray") -> "Figure":
    """Random test images with their predictions; mistakes name the label too."""
    from classifier.report import figures

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
    from classifier.model.metrics import wilson_interval

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


def class_rows(by_class: "pd.DataFrame") -> list[dict[str, Any]]:
    """The classes with their figures, the lowest F1 first, then by number."""
    rows = by_class.reset_index().sort_values("f1", kind="stable")
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def mistake_rows(rows: "pd.DataFrame", pixels: "np.ndarray") -> list[dict[str, Any]]:
    """The mistakes with thumbnails, as many as the page has room for."""
    from classifier.report import page

    thumbnails = page.thumbnails(pixels)
    return [
        {
            "image": row["image"],
            "label": row["label"],
            "predicted": row["predicted"],
            "confidence": row["confidence"],
            "of_label": row["probability of the label"],
            "thumbnail": thumbnail,
        }
        for row, thumbnail in zip(rows.to_dict("records"), thumbnails, strict=False)
    ]


def finding_rows(table: "pd.DataFrame", readers: "list[Callable[[str], bytes]]") -> list[dict[str, Any]]:
    """What `annotate` found odd, in words, with thumbnails of the one or two images."""
    from classifier.data import images
    from classifier.report import page

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


if __name__ == "__main__":
    sys.exit(run_stage("report", main, __doc__))
