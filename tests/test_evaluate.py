"""evaluate: the figures against scikit-learn, and what bad inputs get."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, recall_score, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_calibration_error

from classifier.dataset import AnnotatedImages
from classifier.model import serialization
from classifier.model.serialization import KEY
from classifier.train.calibration import fit_temperature
from tests.project import TEST_IMAGES, Project


def test_the_metrics_are_those_of_scikit_learn(finished: Project) -> None:
    metrics = json.loads(finished.read("metrics/evaluate.json"))
    rows = pd.read_csv(finished.root / "metrics/predictions.csv")
    names = pd.read_csv(finished.root / "data/annotations.csv").sort_values("label")["class_name"].unique().tolist()
    assert len(rows) == metrics["rows"] == TEST_IMAGES
    assert rows.columns.tolist() == ["image", "label", "predicted", *(f"probability of {name}" for name in names)]
    assert metrics["accuracy"] == accuracy_score(rows["label"], rows["predicted"])
    probabilities = rows.filter(like="probability of").to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    probabilities /= probabilities.sum(1, keepdims=True)  # they were rounded
    labels = [names.index(label) for label in rows["label"]]
    assert metrics["loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(10)), abs=1e-4)
    by_class = recall_score(rows["label"], rows["predicted"], labels=names, average=None)
    assert [metrics["classes"][name]["recall"] for name in names] == pytest.approx(by_class.tolist(), abs=1e-6)


def test_every_figure_follows_from_the_predictions(finished: Project) -> None:
    metrics = json.loads(finished.read("metrics/evaluate.json"))
    rows = pd.read_csv(finished.root / "metrics/predictions.csv")
    probabilities = rows.filter(like="probability of").to_numpy()
    names = [name.removeprefix("probability of ") for name in rows.filter(like="probability of").columns]
    labels = np.array([names.index(label) for label in rows["label"]])
    assert metrics["macro_f1"] == pytest.approx(f1_score(rows["label"], rows["predicted"], average="macro"), abs=1e-6)
    top_2 = top_k_accuracy_score(labels, probabilities, k=2, labels=range(10))
    assert metrics["top_2_accuracy"] == pytest.approx(top_2, abs=1e-6)
    brier = brier_score_loss(labels, probabilities, labels=list(range(10)), scale_by_half=False)
    assert metrics["brier_score"] == pytest.approx(brier, abs=1e-5)
    interval = binomtest(round(metrics["accuracy"] * TEST_IMAGES), TEST_IMAGES).proportion_ci(method="wilson")
    assert metrics["accuracy_interval"] == pytest.approx({"low": interval.low, "high": interval.high}, abs=1e-6)
    calibration, temperature = metrics["calibration"], metrics["calibration"]["temperature"]
    scaled = metrics.scale(probabilities, temperature)
    for key, values in (("error", probabilities), ("error_after_scaling", scaled)):
        arguments = torch.from_numpy(values), torch.from_numpy(labels), 10
        error = multiclass_calibration_error(*arguments, n_bins=15, norm="l1").item()
        assert calibration[key] == pytest.approx(error, abs=1e-4), key
    assert calibration["loss_after_scaling"] == pytest.approx(log_loss(labels, scaled, labels=range(10)), abs=1e-4)
    classes = pd.read_csv(finished.root / "metrics/evaluate/classes.csv", index_col="class")
    assert classes["f1"].to_dict() == {name: values["f1"] for name, values in metrics["classes"].items()}
    assert classes["accuracy"].is_monotonic_increasing


def test_temperature_and_mirrored_views_are_what_they_are_called(finished: Project) -> None:
    metrics = json.loads(finished.read("metrics/evaluate.json"))
    model, model_config = serialization.load(finished.root / "models/classifier.safetensors")
    normalize = serialization.Normalize(model_config)
    with torch.inference_mode():
        paths = finished.root / "data/annotations.csv", finished.root / "data/images.zip"
        validation, test = (AnnotatedImages(*paths, split=split) for split in ("val", "test"))
        of_validation = model(normalize(validation.all_images()))
        both = model(normalize(test.all_images())) + model(normalize(test.all_images().flip(-1)))
    temperature = fit_temperature(of_validation, validation.labels)
    assert metrics["calibration"]["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert metrics["calibration"]["temperature"] != 1
    mirrored = (both.argmax(1) == test.labels).double().mean().item()
    assert metrics["accuracy_with_mirrored_views"] == pytest.approx(mirrored)
    assert mirrored < metrics["accuracy"]  # the classes are sides of the image


def test_the_test_labels_do_not_touch_the_temperature(finished: Project) -> None:
    before = json.loads(finished.read("metrics/evaluate.json"))
    path = finished.root / "data/annotations.csv"
    rows = pd.read_csv(path)
    is_test = rows["split"] == "test"
    for column in ("label", "class_name"):
        rows.loc[is_test, column] = rows.loc[is_test, column].to_numpy()[::-1]
    path.unlink()
    rows.to_csv(path, index=False)
    finished.stage("train")
    finished.stage("evaluate")
    after = json.loads(finished.read("metrics/evaluate.json"))
    assert after["accuracy"] < 0.5 < before["accuracy"]
    assert after["calibration"]["temperature"] == before["calibration"]["temperature"]


def test_without_validation_rows_the_temperature_is_one(finished: Project) -> None:
    path = finished.root / "data/annotations.csv"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace(",val\n", ",train\n"))
    finished.stage("train")
    finished.stage("evaluate")
    calibration = json.loads(finished.read("metrics/evaluate.json"))["calibration"]
    assert calibration["temperature"] == 1
    assert calibration["error"] == calibration["error_after_scaling"]


def test_the_gate(finished: Project) -> None:
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
        assert json.loads(finished.read("metrics/evaluate.json"))["accuracy"] == 0.1


def test_the_numbers_show_in_dvc_metrics(finished: Project) -> None:
    shown = json.loads(finished.dvc("metrics", "show", "--json").stdout)[""]["data"]
    assert shown["metrics/evaluate.json"]["data"] == json.loads(finished.read("metrics/evaluate.json"))
    finished.set(train__seed=3)
    finished.repro()
    changes = json.loads(finished.dvc("metrics", "diff", "--json").stdout)
    assert changes["metrics/evaluate.json"]["loss"]["diff"] != 0


def test_the_plots_show_curves_confusion_and_samples(finished: Project) -> None:
    page = finished.dvc("plots", "show").stdout.strip().removeprefix("file://")
    text = Path(page).read_text()
    for title in ("Loss by epoch", "Accuracy by epoch", "Confusion matrix"):
        assert title in text
    assert "val_loss" in text
    assert "samples.png" in text


def test_the_batch_size_changes_no_prediction(finished: Project) -> None:
    before = pd.read_csv(finished.root / "metrics/predictions.csv")
    finished.set(evaluate__batch_size=7)
    finished.stage("evaluate")
    after = pd.read_csv(finished.root / "metrics/predictions.csv")
    pd.testing.assert_frame_equal(before, after, atol=1e-5)


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, object]], object]) -> None:
    tensors = load_file(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        model_config = json.loads(json.loads(file.read(size))["__metadata__"][KEY])
    change(tensors, model_config)
    path.unlink()
    save_file(tensors, path, metadata={KEY: json.dumps(model_config)} if model_config else None)


@pytest.mark.parametrize("stage", ["evaluate", "export"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors, model_config: tensors.pop("1.bias"), "do not fit the architecture mlp: 1.bias is missing"),
        (lambda tensors, model_config: tensors.update(extra=torch.zeros(1)), "extra is unknown"),
        (lambda tensors, model_config: tensors.update({"1.bias": torch.zeros(5)}), "1.bias is [5], not [32]"),
        (lambda tensors, model_config: model_config.clear(), "its metadata do not describe a model of this pipeline"),
        (lambda tensors, model_config: model_config.update(architecture="vgg"), "its metadata do not describe a model"),
        (
            lambda tensors, model_config: model_config["class_names"].reverse(),
            "was trained for the classes Ankle boot, Bag",
        ),
        (lambda tensors, model_config: model_config.update(height=14, width=56), "takes images of 1x14x56"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(
    finished: Project, stage: str, change: Callable[..., object], says: str
) -> None:
    path = finished.root / "models/classifier.safetensors"
    rewrite(path, change)
    done = finished.stage(stage, status=1)
    assert done.stderr.startswith(f"{stage}: error: models/classifier.safetensors: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_no_safetensors_is_one_line(finished: Project) -> None:
    path = finished.root / "models/classifier.safetensors"
    path.unlink()
    assert "models/classifier.safetensors is missing" in finished.stage("evaluate", status=1).stderr
    path.write_bytes(b"pickle? no")
    assert "no safetensors file" in finished.stage("evaluate", status=1).stderr


def test_annotations_without_test_rows_are_one_line(finished: Project) -> None:
    path = finished.root / "data/annotations.csv"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace(",test\n", ",val\n"))
    done = finished.stage("evaluate", status=1)
    assert done.stderr == "evaluate: error: data/annotations.csv: has no row with the split test\n"
    assert not (finished.root / "metrics/predictions.csv").exists()


def test_a_class_without_test_images_is_one_line(finished: Project) -> None:
    path = finished.root / "data/annotations.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.unlink()
    path.write_text("".join(line for line in lines if not (",Bag," in line and line.endswith(",test\n"))))
    done = finished.stage("evaluate", status=1)
    assert done.stderr == "evaluate: error: data/annotations.csv: no test row for the class Bag\n"
