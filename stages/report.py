"""Show an evaluation to a person: pictures for DVC, and one self-contained page.

reads   metrics/predictions.csv, metrics/evaluate.json, metrics/train/curves.csv, data/images.zip, the model (for the
        params that it was trained with and the first layer's filters); params.yaml: report
writes  metrics/report.html, metrics/report/*.png
run     dvc repro report, or: python -m stages.report; then open metrics/report.html in a browser
expect  a few seconds; no PyTorch and no network; the page stays below 2 MB and asks no host for anything
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as `python stages/report.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib.runner.errors import StageError
from stages.lib.runner.stage import Run, run_stage

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

PROBABILITY = "probability of "
MISTAKES_DRAWN = 25
LIBRARIES = ("torch", "numpy", "scipy", "pandas", "pillow", "safetensors", "matplotlib", "dvc")  # the page names them


def main(run: Run) -> None:
    """Read what evaluate found, draw, write the page."""
    import numpy as np
    import pandas as pd

    from stages.lib import images
    from stages.lib.report import figures, model_summary, page
    from stages.lib.seeds import derive

    options = run.param("report")
    evaluation = json.loads(run.dep("metrics/evaluate.json").read_text(encoding="utf-8"))
    predictions = read_predictions(run.dep("metrics/predictions.csv"))
    read = images.reader(run.dep("data/images.zip"))
    curve = pd.read_csv(run.dep("metrics/train/curves.csv"))
    model = model_summary.read(run.dep("models/classifier.safetensors"))

    mistakes = predictions.most_confident_mistakes().head(max(options.mistakes, MISTAKES_DRAWN))
    generator = np.random.default_rng(derive(options.seed, "samples"))
    size = min(options.samples, len(predictions.rows))
    samples = predictions.rows.iloc[np.sort(generator.choice(len(predictions.rows), size, replace=False))]
    of_mistakes, of_samples = (images.stack(rows["image"], len(rows), read) for rows in (mistakes, samples))

    draw: dict[str, Callable[[], Figure]] = {
        "confusion": lambda: figures.confusion(predictions.confusion(), predictions.class_names),
        "f1": lambda: figures.f1_bars(pd.DataFrame.from_dict(evaluation["classes"], orient="index")),
        "reliability": lambda: draw_reliability(predictions, evaluation["calibration"]),
        "mistakes": lambda: draw_mistakes(mistakes[:MISTAKES_DRAWN], of_mistakes[:MISTAKES_DRAWN]),
        "samples": lambda: draw_samples(samples, of_samples),
        "filters": lambda: figures.filters(model.filters),
    }
    pictures = {name: page.picture(function) for name, function in draw.items()}
    for name, picture in pictures.items():
        run.out(f"metrics/report/{name}.png").write_bytes(picture.png)
    pictures["curves"] = page.picture(lambda: figures.curves(curve))  # DVC draws these itself

    written = page.write(
        run.out("metrics/report.html"),
        model=model.architecture,
        rows=evaluation["rows"],
        merits=merits(evaluation),
        classes=class_rows(evaluation),
        pictures=pictures,
        mistakes=mistake_rows(mistakes[: options.mistakes], of_mistakes),
        number_of_mistakes=int((~predictions.right).sum()),
        params=flat(model.trained_with),
        versions=page.versions(LIBRARIES),
    )
    run.say(f"wrote metrics/report.html: {written:,} bytes; open it in a browser")


@dataclass(frozen=True)
class Predictions:
    """What evaluate wrote about every test image.

    Attributes:
        rows: the table, with a column ``confidence`` more: the probability of the predicted class.
        class_names: of classes 0, 1, ...
        labels, predicted: ``(N,) int``, numbers of classes.
        probabilities: ``(N, classes) float``.
    """

    rows: "pd.DataFrame"
    class_names: list[str]
    labels: "np.ndarray"
    predicted: "np.ndarray"
    probabilities: "np.ndarray"

    @property
    def right(self) -> "pd.Series":
        """Which predictions are right, ``(N,) bool``."""
        return self.rows["label"] == self.rows["predicted"]

    def confusion(self) -> "np.ndarray":
        """``(classes, classes) int``, a row for each true class."""
        from stages.lib import measures

        return measures.confusion(self.labels, self.predicted, len(self.class_names))

    def most_confident_mistakes(self) -> "pd.DataFrame":
        """All wrong predictions, the surest first; of equally sure ones the first by name."""
        return self.rows[~self.right].sort_values(["confidence", "image"], ascending=[False, True])


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
        raise StageError(f"{path}: no predictions of this pipeline; `dvc repro evaluate` makes them")
    number = {name: label for label, name in enumerate(class_names)}
    labels, predicted = (rows[column].map(number).to_numpy(np.int64) for column in ("label", "predicted"))
    probabilities = rows[columns].to_numpy(np.float64)
    rows["confidence"] = probabilities[np.arange(len(rows)), predicted]
    rows["probability of the label"] = probabilities[np.arange(len(rows)), labels]
    return Predictions(rows, class_names, labels, predicted, probabilities)


# --- pictures --------------------------------------------------------------------------------------------------------


def draw_reliability(predictions: Predictions, calibration: dict[str, float]) -> "Figure":
    """Before and after temperature scaling, from the probabilities in the table."""
    from stages.lib import measures
    from stages.lib.report import figures

    temperature = calibration["temperature"]
    scaled = measures.scale(predictions.probabilities, temperature)
    before, after = (measures.reliability(p, predictions.labels) for p in (predictions.probabilities, scaled))
    return figures.reliability(before, after, (calibration["error"], calibration["error_after_scaling"]), temperature)


def draw_mistakes(rows: "pd.DataFrame", pixels: "np.ndarray") -> "Figure":
    """The worst mistakes with what they are and what they were taken for."""
    from stages.lib.report import figures

    captions = [
        f"{row.label}\ntaken for {row.predicted}\n({row.confidence:.1%} sure)" for row in rows.itertuples(index=False)
    ]
    title = f"The {len(rows)} most confident mistakes" if len(rows) > 1 else "Mistakes"
    return figures.picture_grid(title, pixels, captions, [False] * len(rows), 5, "There is no mistake.")


def draw_samples(rows: "pd.DataFrame", pixels: "np.ndarray") -> "Figure":
    """Random test images with what was predicted; mistakes say what was right."""
    from stages.lib.report import figures

    right = (rows["label"] == rows["predicted"]).tolist()
    captions = [
        f"{row.predicted} {row.confidence:.0%}" + ("" if good else f"\nbut is {row.label}")
        for row, good in zip(rows.itertuples(index=False), right, strict=True)
    ]
    title = "Random test images with prediction and confidence"
    return figures.picture_grid(title, pixels, captions, [not good for good in right], 8, "There is no image.")


# --- the page --------------------------------------------------------------------------------------------------------


def merits(evaluation: dict[str, Any]) -> list[dict[str, str]]:
    """Names, values and what to know about each, in the order of the page; intervals are 95 % Wilson intervals."""
    from stages.lib.measures import wilson_interval

    def fraction(name: str, key: str, note: str) -> dict[str, str]:
        value = evaluation[key]
        low, high = wilson_interval(value, evaluation["rows"])
        return {"name": name, "value": f"{value:.2%}", "note": f"{low:.2%} to {high:.2%}{note}"}

    calibration = evaluation["calibration"]
    error, after = calibration["error"], calibration["error_after_scaling"]
    return [
        fraction("accuracy", "accuracy", ""),
        fraction("with mirrored views", "accuracy_with_mirrored_views", "; mean of an image and its mirror image"),
        fraction("top-2 accuracy", "top_2_accuracy", "; the class is one of the two most probable"),
        {"name": "macro F1", "value": f"{evaluation['macro_f1']:.4f}", "note": "mean over the classes; 1 is best"},
        {
            "name": "loss",
            "value": f"{evaluation['loss']:.4f}",
            "note": f"cross entropy in nats; {calibration['loss_after_scaling']:.4f} at the fitted temperature",
        },
        {"name": "Brier score", "value": f"{evaluation['brier_score']:.4f}", "note": "0 is best, 2 is worst"},
        {
            "name": "calibration error",
            "value": f"{error:.2%}",
            "note": f"mean gap of confidence and accuracy in 15 bins; {after:.2%} at the fitted temperature",
        },
        {
            "name": "temperature",
            "value": f"{calibration['temperature']:.3f}",
            "note": "fitted on the validation images; below 1: the model is less sure than it may be",
        },
    ]


def class_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The classes with their figures and the interval of the recall, the lowest F1 first."""
    from stages.lib.measures import wilson_interval

    rows = [
        {"name": name, **values, "interval": wilson_interval(values["recall"], values["support"])}
        for name, values in evaluation["classes"].items()
    ]
    return sorted(rows, key=lambda row: (row["f1"], row["name"]))


def mistake_rows(rows: "pd.DataFrame", pixels: "np.ndarray") -> list[dict[str, Any]]:
    """The mistakes with thumbnails, as many as the page has room for."""
    from stages.lib.report import page

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


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested params as dotted keys and what stands in params.yaml for them."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found


if __name__ == "__main__":
    sys.exit(run_stage("report", main, __doc__))
