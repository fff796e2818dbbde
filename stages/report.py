"""Show an evaluation to a person: pictures for DVC, and one self-contained page.

reads   metrics/predictions.csv, metrics/train/curves.csv, metrics/annotate/findings.csv, data/test_images,
        data/images, in metrics/evaluate/: details.json, classes.csv, reliability.csv; the model (for the params
        that it was trained with and the first layer's filters); params.yaml: report
writes  metrics/report.html, metrics/report/*.png
run     dvc repro report, or: python -m stages.report; then open metrics/report.html in a browser
expect  a few seconds; no PyTorch and no network; the page is smaller than 2 MB and makes no request
"""

import logging
import sys
from collections.abc import Callable
from importlib.metadata import version

from classifier import yaml_file
from classifier.data import images
from classifier.data.pictures import drawable_names
from classifier.evaluate import predictions as predictions_file
from classifier.report import content, figures, page
from classifier.runner.context import StageContext
from classifier.runner.stage import run_stage
from classifier.seeds import derive_seed

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

MISTAKES_DRAWN, SAMPLES_DRAWN = 25, 40
FINDINGS_SHOWN = 30  # rows with their images
LIBRARIES = ("torch", "numpy", "scipy", "pandas", "pillow", "safetensors", "matplotlib", "dvc")  # named on the page

logger = logging.getLogger("stages.report")


def main(context: StageContext) -> None:
    """Read what evaluate wrote, draw, write the page."""
    evaluation = context.read_json("metrics/evaluate/details.json")
    by_class = content.read_table(context.dep("metrics/evaluate/classes.csv"), "class")
    bins = content.read_table(context.dep("metrics/evaluate/reliability.csv"), "scaling")
    predictions = predictions_file.read(context.dep("metrics/predictions.csv"))
    read = images.reader(context.dep("data/test_images"))
    findings = pd.read_csv(context.dep("metrics/annotate/findings.csv"), dtype="str", keep_default_na=False)
    read_other = images.reader(context.dep("data/images"))
    curves = pd.read_csv(context.dep("metrics/train/curves.csv"))
    model_config, filters = content.read_model(context.dep("models/classifier.safetensors"))

    listed = context.params.report.mistakes
    mistakes = predictions.most_confident_mistakes().head(max(listed, MISTAKES_DRAWN))
    generator, count = np.random.default_rng(derive_seed(0, "samples")), len(predictions.rows)
    drawn = np.sort(generator.choice(count, min(SAMPLES_DRAWN, count), replace=False))
    samples = predictions.rows.iloc[drawn]
    of_mistakes, of_samples = (images.stack(rows["image"], len(rows), read) for rows in (mistakes, samples))

    names = dict(zip(predictions.class_names, drawable_names(predictions.class_names), strict=True))
    drawn_mistakes, drawn_samples = (rows.replace({"label": names, "predicted": names}) for rows in (mistakes, samples))
    draw: dict[str, Callable[[], Figure]] = {
        "confusion": lambda: figures.confusion(predictions.confusion, [*names.values()]),
        "f1": lambda: figures.f1_bars(by_class.rename(index=names)),
        "reliability": lambda: figures.reliability(bins, evaluation),
        "mistakes": lambda: content.draw_mistakes(drawn_mistakes, of_mistakes, MISTAKES_DRAWN),
        "samples": lambda: content.draw_samples(drawn_samples, of_samples),
        "filters": lambda: figures.filters(filters),
    }
    pictures = {name: page.picture(function) for name, function in draw.items()}
    for name, picture in pictures.items():
        context.out(f"metrics/report/{name}.png").write_bytes(picture.png)
    pictures["curves"] = page.picture(lambda: figures.curves(curves))  # DVC draws these itself

    written = page.write(
        context.out("metrics/report.html"),
        model=model_config["architecture"],
        num_images=evaluation["num_images"],
        metrics=content.headline_metrics(evaluation),
        classes=by_class.reset_index().sort_values("f1", kind="stable").to_dict("records"),
        pictures=pictures,
        mistakes=content.mistake_rows(mistakes[:listed], of_mistakes),
        findings=content.finding_rows(findings.head(FINDINGS_SHOWN), read, read_other),
        num_mistakes=int((~predictions.correct).sum()),
        params=yaml_file.as_text(model_config["trained_with"]),
        versions={name: version(name) for name in LIBRARIES},
    )
    logger.info(f"wrote metrics/report.html: {written:,} bytes; open it in a browser")


if __name__ == "__main__":
    sys.exit(run_stage("report", main, __doc__))
