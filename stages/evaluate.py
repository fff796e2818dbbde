"""Apply the trained model to the test images: accuracy, confidence and calibration, overall and by class.

reads   models/classifier.safetensors, data/test_images, data/annotations.csv; params.yaml: evaluate, compute
writes  metrics/evaluate.json (the figures to compare), metrics/predictions.csv (one row a test image), and in
        metrics/evaluate/: details.json (all figures), classes.csv, reliability.csv
run     dvc repro evaluate, or: python -m stages.evaluate
expect  a few seconds; docs/results.md has the accuracy of the default recipe

All probabilities, and the figures that follow from them, are calibrated, as the exported model gives them: the logits
are divided by the temperature that `train` fitted on the validation split. Below `evaluate.minimum_accuracy` the stage
fails, so that nothing is exported. `report` draws the results.
"""

import logging
import sys

from classifier.data.dataset import load_splits
from classifier.errors import StageError
from classifier.evaluate import metrics, predictions
from classifier.model import compute, serialization
from classifier.model.inference import predict_views
from classifier.runner.context import StageContext
from classifier.runner.stage import run_stage

import pandas as pd

# The figures that people compare: with these names and at most this many decimals, the table of `dvc metrics show`
# fits 120 columns.
COMPARED = ("accuracy", "ece", "f1", "loss")
COMPARED_DECIMALS = 5
MIRROR_LOSS = 0.02  # of accuracy: more, and mirror images seem to be something else

logger = logging.getLogger("stages.evaluate")


def main(context: StageContext) -> None:
    """Predict, compute the metrics, write; refuse a model that is not good enough."""
    params = context.params
    backend = compute.prepare(params.compute, params.runtime.threads)
    model_path = context.dep("models/classifier.safetensors")
    model, model_config = serialization.load(model_path)
    (test_images,) = load_splits(
        context.dep("data/annotations.csv"),
        context.dep("data/test_images"),
        "test",
        memory_mb=0,  # each image is looked at once
        threads=params.runtime.prefetch_threads,
    )
    model_config.check_fits(model_path, test_images)

    # A model that was trained without mirror images need not know them: a mirrored digit is another one, or none.
    flips = (False, True) if model_config.trained_with["train"]["augment"]["hflip"] else (False,)
    batches = test_images.iter_batches(params.evaluate.batch_size)
    logits, *mirrored = predict_views(model, model_config, batches, flips, backend)
    labels, class_names = test_images.labels.numpy(), model_config.class_names
    probabilities = metrics.softmax(logits, model_config.temperature)
    by_class = metrics.by_class(metrics.confusion(labels, logits.argmax(1), len(class_names)), class_names)
    details = metrics.compute_metrics(logits, probabilities, labels, model_config.temperature, *mirrored)
    tested = by_class[by_class["support"] > 0]  # nothing is known about other classes
    details |= metrics.round_values({"balanced_accuracy": tested["recall"].mean(), "f1": tested["f1"].mean()})
    details["num_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if details["accuracy"] < params.evaluate.minimum_accuracy:
        raise StageError(
            f"the accuracy on the test split is {details['accuracy']:.6g}, below evaluate.minimum_accuracy "
            f"{params.evaluate.minimum_accuracy:g}; train a better model, or lower the minimum (0: none)"
        )

    predictions.write(context.out("metrics/predictions.csv"), test_images.names, labels, class_names, probabilities)
    worst_first = by_class.sort_values("recall", kind="stable")
    metrics.write_table(context.out("metrics/evaluate/classes.csv"), worst_first)
    scalings = {"none": metrics.softmax(logits), "temperature": probabilities}
    bins = pd.concat({name: metrics.reliability(each, labels) for name, each in scalings.items()}, names=["scaling"])
    metrics.write_table(context.out("metrics/evaluate/reliability.csv"), bins.droplevel(1))
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


if __name__ == "__main__":
    sys.exit(run_stage("evaluate", main, __doc__))
