"""Apply the trained model to the test images: accuracy, confidence and calibration, overall and by class.

reads   models/classifier.safetensors, data/test_images.zip, data/annotations.csv; params.yaml: evaluate, compute
writes  metrics/evaluate.json (the figures to compare), metrics/predictions.csv (one row a test image), and in
        metrics/evaluate/: details.json (all figures), classes.csv, reliability.csv
run     dvc repro evaluate, or: python -m stages.evaluate
expect  a few seconds; docs/results.md has the accuracy of the default recipe

The temperature, which calibrates the confidence, was fitted by `train` on the validation split. Below
`evaluate.minimum_accuracy` the stage fails, so that nothing is exported. `report` draws the results.
"""

import classifier.runner  # noqa: F401 (first of all: Ctrl-C ends the program without a traceback)

# isort: split
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.errors import StageError
from classifier.runner.stage import run_stage

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from classifier.dataset import AnnotatedImages
    from classifier.runner.context import StageContext

DECIMALS = 6
# The figures that people compare: with these names and at most this many decimals, the table of `dvc metrics show`
# fits 120 columns.
COMPARED = ("accuracy", "ece", "f1", "loss")
COMPARED_DECIMALS = 5
MIRROR_LOSS = 0.02  # of accuracy: more, and mirror images seem to be something else

logger = logging.getLogger("stages.evaluate")


def main(context: "StageContext") -> None:
    """Predict, compute the metrics, write; refuse a model that is not good enough."""
    import torch

    from classifier import metrics
    from classifier.dataset import load_splits
    from classifier.model import compute, serialization
    from classifier.model.inference import fold_batch_norm, predict_logits

    params = context.param("evaluate")
    backend = compute.prepare(context.param("compute"), context.untracked_param("runtime").threads)
    model_path, annotations_file = context.dep("models/classifier.safetensors"), context.dep("data/annotations.csv")
    model, model_config = serialization.load(model_path)
    (test_images,) = load_splits(
        annotations_file,
        context.dep("data/test_images.zip"),
        "test",
        memory_mb=0,  # each image is looked at once
        threads=context.untracked_param("runtime").prefetch_threads,
    )
    model_config.check_fits(model_path, test_images)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    model = fold_batch_norm(model).to(backend.device).to(memory_format=torch.channels_last)
    normalize = serialization.Normalize(model_config).to(backend.device)

    labels = test_images.labels.numpy()
    # A model that was trained without mirror images need not know them: a mirrored digit is another one, or none.
    flips = (False, True) if model_config.trained_with["train"]["augment"]["hflip"] else (False,)
    batches = test_images.iter_batches(params.batch_size)
    views = (images.flip(-1) if flip else images for images in batches for flip in flips)
    logits_of_views = [*predict_logits(model, normalize, views, backend)]
    logits, *mirrored = (torch.cat(logits_of_views[first :: len(flips)]).cpu().numpy() for first in range(len(flips)))

    confusion = metrics.confusion(labels, logits.argmax(1), len(model_config.class_names))
    by_class = metrics.by_class(confusion, model_config.class_names)
    details = compute_metrics(logits, labels, model_config.temperature, *mirrored)
    tested = by_class[by_class["support"] > 0]  # nothing is known about other classes
    details |= round_values({"balanced_accuracy": tested["recall"].mean(), "f1": tested["f1"].mean()})
    details |= {"num_parameters": num_parameters}
    if details["accuracy"] < params.minimum_accuracy:
        raise StageError(
            f"the accuracy on the test split is {details['accuracy']:.6g}, below evaluate.minimum_accuracy "
            f"{params.minimum_accuracy:g}; train a better model, or lower the minimum (0: none)"
        )
    write_predictions(context.out("metrics/predictions.csv"), test_images, logits)
    worst_first = by_class.sort_values("recall", kind="stable")
    write_table(context.out("metrics/evaluate/classes.csv"), worst_first)
    bins = metrics.reliability_before_and_after(metrics.softmax(logits), labels, model_config.temperature)
    write_table(context.out("metrics/evaluate/reliability.csv"), bins)
    context.write_json("metrics/evaluate/details.json", details)
    context.write_json("metrics/evaluate.json", {key: round(details[key], COMPARED_DECIMALS) for key in COMPARED})
    low, high = details["accuracy_interval"]["low"], details["accuracy_interval"]["high"]
    logger.info(
        f"wrote metrics/evaluate.json: accuracy {details['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        f"loss {details['loss']:.4f} on {len(test_images):,} test images"
    )
    if low <= (majority := details["majority_accuracy"]):
        logger.warning(
            f"the model may be no better than always naming the most frequent class ({majority:.2%}): train for more "
            "epochs, or on more images"
        )
    if mirrored and (lost := details["accuracy"] - details["accuracy_mirrored"]) > MIRROR_LOSS:
        logger.warning(
            f"mirror images are recognized {lost:.1%} worse: if they are other classes, set train.augment.hflip: false"
        )


def compute_metrics(
    logits: "np.ndarray", labels: "np.ndarray", temperature: float, mirrored_logits: "np.ndarray | None" = None
) -> dict[str, Any]:
    """The figures of a test split as a whole, rounded, as metrics/evaluate/details.json has them.

    Args:
        logits: ``(N, classes) float32``.
        labels: ``(N,) int64``.
        temperature: fitted on the validation split.
        mirrored_logits: of the mirror images, if the model was trained with such.
    """
    import numpy as np

    from classifier import metrics

    accuracy = metrics.top_k_accuracy(logits, labels, 1)
    low, high = metrics.wilson_interval(accuracy, len(labels))
    probabilities, calibrated = (metrics.softmax(logits, t) for t in (1.0, temperature))
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
            "ece": metrics.expected_calibration_error(metrics.reliability(probabilities, labels)),
            "ece_calibrated": metrics.expected_calibration_error(metrics.reliability(calibrated, labels)),
            "loss": metrics.mean_loss(logits, labels),
            "loss_calibrated": metrics.mean_loss(logits, labels, temperature),
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


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a CSV with its index, rounded."""
    table.round(DECIMALS).to_csv(path, lineterminator="\n")


def write_predictions(path: Path, test_images: "AnnotatedImages", logits: "np.ndarray") -> None:
    """One row a test image: image, label, predicted, and the probability of each class before calibration."""
    import numpy as np
    import pandas as pd

    from classifier import metrics

    names = np.array(test_images.class_names)
    rows = pd.DataFrame(
        {"image": test_images.names, "label": names[test_images.labels.numpy()], "predicted": names[logits.argmax(1)]}
    )
    for name, column in zip(test_images.class_names, metrics.softmax(logits).T.tolist(), strict=True):
        rows[f"probability of {name}"] = [f"{value:.{DECIMALS}f}" for value in column]  # twice as fast as float_format
    rows.to_csv(path, index=False, lineterminator="\n")


if __name__ == "__main__":
    sys.exit(run_stage("evaluate", main, __doc__))
