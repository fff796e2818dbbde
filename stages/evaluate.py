"""Apply the trained model to the test images and say how good it is, how sure, and how far to believe it.

reads   models/classifier.safetensors, data/images.zip, data/annotations.csv; params.yaml: evaluate, compute
writes  metrics/evaluate.json, metrics/predictions.csv (one row a test image), metrics/evaluate/classes.csv
run     dvc repro evaluate, or: python -m stages.evaluate
expect  a few seconds; see the README for the accuracy of the default recipe

The model's temperature, which mends its confidence, was fitted by `train` on the validation split. Below
`evaluate.minimum_accuracy` the stage fails, so that nothing is exported. `report` draws what stands in these files.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as `python stages/evaluate.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib.runner.errors import StageError
from stages.lib.runner.stage import Run, run_stage

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

    from stages.lib.dataset import AnnotatedImages

DECIMALS = 6


def main(run: Run) -> None:
    """Predict, measure, write; refuse a model that is not good enough."""
    import torch

    from stages.lib import measures
    from stages.lib.dataset import load_splits
    from stages.lib.model import compute, model_file
    from stages.lib.model.scoring import logits_by_batch

    params, device = run.param("evaluate"), compute.prepare(run.param("compute"))
    model_path, annotations_file = run.dep("models/classifier.safetensors"), run.dep("data/annotations.csv")
    model, card = model_file.load(model_path)
    (test,) = load_splits(
        annotations_file,
        run.dep("data/images.zip"),
        "test",
        memory_mb=0,  # each image is looked at once
        threads=run.setting("runtime").reader_threads,
    )
    card.check_fits(model_path, test)
    check_classes(annotations_file, test)
    model = without_batch_norm(model).to(device).to(memory_format=torch.channels_last)
    normalise = model_file.Normalise(card).to(device)

    labels = test.labels.numpy()
    views = (view for images in test.in_order(params.batch_size) for view in (images, images.flip(-1)))
    of_views = [*logits_by_batch(model, normalise, views, device)]
    logits, of_mirrored = (torch.cat(of_views[first::2]).numpy() for first in (0, 1))

    counts = measures.confusion(labels, logits.argmax(1), len(card.class_names))
    by_class = measures.by_class(counts, card.class_names)
    result = measure(logits, of_mirrored, labels, card.temperature, by_class)
    if result["accuracy"] < params.minimum_accuracy:
        raise StageError(
            f"the accuracy on the test split is {result['accuracy']:.6g}, below evaluate.minimum_accuracy "
            f"{params.minimum_accuracy:g}; train a better model, or lower the minimum (0: none)"
        )
    write_predictions(run.out("metrics/predictions.csv"), test, logits)
    worst_first = by_class.rename(columns={"recall": "accuracy"}).sort_values("accuracy", kind="stable")
    worst_first.round(DECIMALS).to_csv(run.out("metrics/evaluate/classes.csv"), lineterminator="\n")
    run.write_json("metrics/evaluate.json", result)
    low, high = result["accuracy_interval"].values()
    run.say(
        f"wrote metrics/evaluate.json: accuracy {result['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        f"loss {result['loss']:.4f} on {len(test):,} test images"
    )


def without_batch_norm(model: "nn.Module") -> "nn.Module":
    """The same function with every BatchNorm in the convolution right before it, as far as that is plain to see.

    It takes a tenth off the forward passes; `export` does the same to the file.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    if not isinstance(model, nn.Sequential):
        return model
    layers: list[nn.Module] = []
    for layer in model:
        if layers and isinstance(layer, nn.BatchNorm2d) and isinstance(layers[-1], nn.Conv2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def check_classes(annotations_file: Path, test: "AnnotatedImages") -> None:
    """Refuse a test split that says nothing about some class.

    Raises:
        StageError: a class has no test image.
    """
    absent = set(range(len(test.class_names))) - set(test.labels.tolist())
    if absent:
        names = ", ".join(test.class_names[label] for label in sorted(absent))
        raise StageError(f"{annotations_file}: no test row for the class {names}")


def measure(
    logits: "np.ndarray", of_mirrored: "np.ndarray", labels: "np.ndarray", temperature: float, by_class: "pd.DataFrame"
) -> dict[str, Any]:
    """All figures of a test split, rounded, nested as metrics/evaluate.json has them."""
    from stages.lib import measures

    accuracy = measures.top_k_accuracy(logits, labels, 1)
    low, high = measures.wilson_interval(accuracy, len(labels))
    both_views = (logits + of_mirrored) / 2
    before, after = (measures.softmax(logits, t) for t in (1.0, temperature))
    return rounded(
        {
            "accuracy": accuracy,
            "accuracy_interval": {"low": low, "high": high},
            "accuracy_with_mirrored_views": measures.top_k_accuracy(both_views, labels, 1),
            "brier_score": measures.brier_score(before, labels),
            "calibration": {
                "error": measures.expected_calibration_error(measures.reliability(before, labels)),
                "error_after_scaling": measures.expected_calibration_error(measures.reliability(after, labels)),
                "loss_after_scaling": measures.mean_loss(logits, labels, temperature),
                "temperature": temperature,
            },
            "classes": by_class.to_dict("index"),
            "loss": measures.mean_loss(logits, labels),
            "macro_f1": float(by_class["f1"].mean()),
            "rows": len(labels),
            "top_2_accuracy": measures.top_k_accuracy(logits, labels, 2),
        }
    )


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """The same with every fraction at six decimals."""
    return {
        str(key): rounded(value) if isinstance(value, dict) else value if isinstance(value, int) else round(value, 6)
        for key, value in values.items()
    }


def write_predictions(path: Path, test: "AnnotatedImages", logits: "np.ndarray") -> None:
    """One row a test image: image, label, predicted, and the probability of each class as the model gives it."""
    import numpy as np
    import pandas as pd

    from stages.lib import measures

    names = np.array(test.class_names)
    rows = pd.DataFrame(
        {"image": test.names, "label": names[test.labels.numpy()], "predicted": names[logits.argmax(1)]}
    )
    for name, column in zip(test.class_names, measures.softmax(logits).T.tolist(), strict=True):
        rows[f"probability of {name}"] = [f"{value:.{DECIMALS}f}" for value in column]  # twice as fast as float_format
    rows.to_csv(path, index=False, lineterminator="\n")


if __name__ == "__main__":
    sys.exit(run_stage("evaluate", main, __doc__))
