"""evaluate: the figures against scikit-learn, and what bad inputs get."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.data.dataset import AnnotatedImages
from classifier.model import serialization
from classifier.model.serialization import KEY
from classifier.train.calibration import fit_temperature
from tests.project import TEST_IMAGES, Project

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, recall_score, top_k_accuracy_score


def details(project: Project) -> dict[str, Any]:
    """All figures of the test split."""
    content: dict[str, Any] = project.json("metrics/evaluate/details.json")
    return content


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, object]], object]) -> None:
    tensors = load_file(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        model_config = json.loads(json.loads(file.read(size))["__metadata__"][KEY])
    change(tensors, model_config)
    path.unlink()
    save_file(tensors, path, metadata={KEY: json.dumps(model_config)} if model_config else None)


def test_model_as_good_as_chance_is_warned_about(finished: Project) -> None:
    warning = "may be no better than always naming the most frequent class (10.00%)"
    assert warning not in finished.stage("evaluate").stderr
    rewrite(finished.root / "models/classifier.safetensors", lambda tensors, _: [t.zero_() for t in tensors.values()])
    assert warning in finished.stage("evaluate").stderr


def test_metrics_equal_scikit_learn(finished: Project) -> None:
    figures = details(finished)
    compared = finished.json("metrics/evaluate.json")
    assert compared == {key: round(figures[key], 5) for key in ("accuracy", "ece", "f1", "loss")}
    rows = finished.table("metrics/predictions.csv")
    names = finished.table("data/annotations.csv").sort_values("label")["class_name"].unique().tolist()
    assert len(rows) == figures["num_images"] == TEST_IMAGES
    assert rows.columns.tolist() == ["image", "label", "predicted", *(f"probability of {name}" for name in names)]
    assert figures["accuracy"] == accuracy_score(rows["label"], rows["predicted"])
    probabilities = rows.filter(like="probability of").to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    probabilities /= probabilities.sum(1, keepdims=True)  # they were rounded
    labels = [names.index(label) for label in rows["label"]]
    assert figures["loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(10)), abs=1e-4)
    by_class = recall_score(rows["label"], rows["predicted"], labels=names, average=None)
    classes = finished.table("metrics/evaluate/classes.csv", index_col="class")
    assert classes.loc[names, "recall"].tolist() == pytest.approx(by_class.tolist(), abs=1e-6)
    for _, row in classes.iterrows():
        interval = binomtest(round(row["recall"] * row["support"]), int(row["support"])).proportion_ci(method="wilson")
        assert (row["recall_low"], row["recall_high"]) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_every_figure_follows_from_the_predictions(finished: Project) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error  # seconds, in one worker

    figures = details(finished)
    rows = finished.table("metrics/predictions.csv")
    probabilities = rows.filter(like="probability of").to_numpy()
    names = [name.removeprefix("probability of ") for name in rows.filter(like="probability of").columns]
    labels = np.array([names.index(label) for label in rows["label"]])
    assert figures["f1"] == pytest.approx(f1_score(rows["label"], rows["predicted"], average="macro"), abs=1e-6)
    top_2 = top_k_accuracy_score(labels, probabilities, k=2, labels=range(10))
    assert figures["top_2_accuracy"] == pytest.approx(top_2, abs=1e-6)
    brier = brier_score_loss(labels, probabilities, labels=list(range(10)), scale_by_half=False)
    assert figures["brier_score"] == pytest.approx(brier, abs=1e-5)
    interval = binomtest(round(figures["accuracy"] * TEST_IMAGES), TEST_IMAGES).proportion_ci(method="wilson")
    assert figures["accuracy_interval"] == pytest.approx({"low": interval.low, "high": interval.high}, abs=1e-6)
    assert figures["temperature"] != 1
    session = onnxruntime.InferenceSession(finished.root / "models/classifier.onnx")
    test = AnnotatedImages(finished.root / "data/annotations.csv", finished.root / "data/test_images.zip", split="test")
    logits, calibrated = session.run(["logits", "probabilities"], {"images": test.all_images().numpy()})
    for suffix, values in (("", calibrated), ("_uncalibrated", softmax(logits, axis=1))):
        arguments = torch.from_numpy(values), torch.from_numpy(labels), 10
        error = multiclass_calibration_error(*arguments, n_bins=15, norm="l1").item()
        assert figures[f"ece{suffix}"] == pytest.approx(error, abs=1e-4)
        assert figures[f"loss{suffix}"] == pytest.approx(log_loss(labels, values, labels=range(10)), abs=1e-4)
    classes = finished.table("metrics/evaluate/classes.csv", index_col="class")
    by_class = f1_score(rows["label"], rows["predicted"], labels=classes.index, average=None)
    assert classes["f1"].tolist() == pytest.approx(by_class.tolist(), abs=1e-6)
    assert classes["recall"].is_monotonic_increasing


def test_temperature_and_tta_accuracy_equal_recomputed_ones(finished: Project) -> None:
    assert not {"accuracy_tta", "accuracy_mirrored"} & details(finished).keys()  # trained without mirror images
    finished.set(train__augment__hflip=True)
    finished.stage("train")
    warned = finished.stage("evaluate").stderr
    figures = details(finished)
    model, model_config = serialization.load(finished.root / "models/classifier.safetensors")
    normalize = serialization.Normalize(model_config)
    with torch.inference_mode():
        annotations, folder = finished.root / "data/annotations.csv", finished.root / "data"
        validation = AnnotatedImages(annotations, folder / "images.zip", split="val")
        test = AnnotatedImages(annotations, folder / "test_images.zip", split="test")
        of_validation = model(normalize(validation.all_images()))
        both = model(normalize(test.all_images())) + model(normalize(test.all_images().flip(-1)))
    temperature = fit_temperature(of_validation, validation.labels)
    assert figures["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert figures["temperature"] != 1
    mirrored = (both.argmax(1) == test.labels).double().mean().item()
    best, second = both.topk(2).values.T
    ties = (best - second < 1e-4).double().mean().item()  # classes that are each other's mirror images
    assert figures["accuracy_tta"] == pytest.approx(mirrored, abs=ties + 1e-6)
    assert ties < 0.05
    mirrored_alone = model(normalize(test.all_images().flip(-1))).argmax(1)
    assert figures["accuracy_mirrored"] == pytest.approx((mirrored_alone == test.labels).double().mean().item())
    lost = figures["accuracy"] - figures["accuracy_mirrored"]
    assert (f"mirror images are recognized {lost:.1%} worse" in warned) == (lost > 0.02)


def test_temperature_is_independent_of_test_labels(finished: Project) -> None:
    before = details(finished)
    path = finished.root / "data/annotations.csv"
    rows = pd.read_csv(path)
    is_test = rows["split"] == "test"
    for column in ("label", "class_name"):
        rows.loc[is_test, column] = rows.loc[is_test, column].to_numpy()[::-1]
    path.unlink()
    rows.to_csv(path, index=False)
    finished.stage("train")
    finished.stage("evaluate")
    after = details(finished)
    assert after["accuracy"] < 0.5 < before["accuracy"]
    assert after["temperature"] == before["temperature"]


def test_temperature_without_validation_images_is_one(finished: Project) -> None:
    path = finished.root / "data/annotations.csv"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace(",val\n", ",train\n"))
    finished.stage("train")
    finished.stage("evaluate")
    figures = details(finished)
    assert figures["temperature"] == 1
    assert figures["ece"] == figures["ece_uncalibrated"]


def test_accuracy_below_minimum_fails_the_stage(finished: Project) -> None:
    """A model that says one class for everything is right on a tenth."""

    def always_the_same(tensors: dict[str, torch.Tensor], model_config: dict[str, object]) -> None:
        tensors["3.weight"].zero_()
        tensors["3.bias"] = torch.eye(10)[4]

    rewrite(finished.root / "models/classifier.safetensors", always_the_same)
    finished.set(evaluate__minimum_accuracy=0.11)
    done = finished.stage("evaluate", status=1)
    assert done.stderr == (
        "evaluate: error: the accuracy on the test split is 0.1, below evaluate.minimum_accuracy 0.11; "
        "train a better model, or lower the minimum (0: none)\n"
    )
    assert not (finished.root / "metrics/evaluate.json").exists()
    for minimum in (0.1, 0.0):
        finished.set(evaluate__minimum_accuracy=minimum)
        finished.stage("evaluate")
        assert finished.json("metrics/evaluate.json")["accuracy"] == 0.1


def test_batch_size_changes_no_prediction(finished: Project) -> None:
    before = finished.table("metrics/predictions.csv")
    finished.set(evaluate__batch_size=7)
    finished.stage("evaluate")
    after = finished.table("metrics/predictions.csv")
    pd.testing.assert_frame_equal(before, after, atol=1e-5)


@pytest.mark.parametrize("stage", ["evaluate", "export"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda tensors, model_config: tensors.pop("1.bias"),
            'do not fit the architecture mlp: Missing key(s) in state_dict: "1.bias"',
        ),
        (
            lambda tensors, model_config: tensors.update(extra=torch.zeros(1)),
            'Unexpected key(s) in state_dict: "extra"',
        ),
        (
            lambda tensors, model_config: tensors.update({"1.bias": torch.zeros(5)}),
            "size mismatch for 1.bias: copying a param with shape torch.Size([5])",
        ),
        (lambda tensors, model_config: model_config.clear(), "its metadata do not describe a model of this pipeline"),
        (lambda tensors, model_config: model_config.update(architecture="vgg"), "its metadata do not describe a model"),
        (
            lambda tensors, model_config: model_config["class_names"].reverse(),
            "was trained for the classes Ankle boot, Bag",
        ),
        (lambda tensors, model_config: model_config.update(height=14, width=56), "takes images of 1x14x56"),
    ],
)
def test_unsuitable_model_is_one_line(finished: Project, stage: str, change: Callable[..., object], says: str) -> None:
    path = finished.root / "models/classifier.safetensors"
    rewrite(path, change)
    done = finished.stage(stage, status=1)
    assert done.stderr.startswith(f"{stage}: error: models/classifier.safetensors: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_file_that_is_not_safetensors_is_one_line(finished: Project) -> None:
    path = finished.root / "models/classifier.safetensors"
    path.unlink()
    assert "models/classifier.safetensors is missing" in finished.stage("evaluate", status=1).stderr
    path.write_bytes(b"pickle? no")
    assert "not a safetensors file" in finished.stage("evaluate", status=1).stderr


def test_annotations_without_test_rows_are_one_line(finished: Project) -> None:
    path = finished.root / "data/annotations.csv"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace(",test\n", ",val\n"))
    done = finished.stage("evaluate", status=1)
    assert done.stderr == "evaluate: error: data/annotations.csv: has no row with the split test\n"
    assert not (finished.root / "metrics/predictions.csv").exists()


def test_class_without_test_images_is_left_out_of_the_means(finished: Project) -> None:
    path = finished.root / "data/annotations.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.unlink()
    path.write_text("".join(line for line in lines if not (",Bag," in line and line.endswith(",test\n"))))
    finished.stage("evaluate")
    classes = finished.table("metrics/evaluate/classes.csv", index_col="class")
    assert classes["support"]["Bag"] == 0
    figures = details(finished)
    assert figures["f1"] == pytest.approx(classes.drop("Bag")["f1"].mean(), abs=1e-5)
    assert figures["balanced_accuracy"] == pytest.approx(classes.drop("Bag")["recall"].mean(), abs=1e-5)
