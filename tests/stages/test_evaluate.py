"""evaluate: the figures against scikit-learn, and what bad inputs get."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.data.dataset import AnnotatedImages
from classifier.errors import StageError
from classifier.evaluate import predictions
from classifier.model import serialization
from classifier.model.serialization import KEY
from classifier.report.content import read_model
from classifier.train.calibration import fit_temperature
from tests.project import TEST_IMAGES, Project, one_line

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, recall_score, top_k_accuracy_score

MODEL, ANNOTATIONS, DETAILS = "models/classifier.safetensors", "data/annotations.csv", "metrics/evaluate/details.json"


def rewrite(project: Project, change: Callable[[dict[str, torch.Tensor], dict[str, object]], object]) -> None:
    """Change the tensors and the description of the model."""
    path = project.root / MODEL
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        model_config = json.loads(file.metadata()[KEY])
    change(tensors, model_config)
    path.unlink()
    save_file(tensors, path, metadata={KEY: json.dumps(model_config)} if model_config else None)


def wilson(share: float, count: int) -> tuple[float, float]:
    interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return interval.low, interval.high


def test_every_figure_is_that_of_scikit_learn(finished: Project) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error  # seconds, in one worker

    figures, rows = finished.json(DETAILS), finished.table("metrics/predictions.csv")
    compared = finished.json("metrics/evaluate.json")
    assert compared == {key: round(figures[key], 5) for key in ("accuracy", "ece", "f1", "loss")}
    names = finished.table(ANNOTATIONS).sort_values("label")["class_name"].unique().tolist()
    assert len(rows) == figures["num_images"] == TEST_IMAGES
    assert rows.columns.tolist() == ["image", "label", "predicted", *(f"probability of {name}" for name in names)]
    of_classes = rows.filter(like="probability of").to_numpy()
    np.testing.assert_allclose(of_classes.sum(1), 1, atol=1e-5)
    labels = np.array([names.index(label) for label in rows["label"]])

    assert figures["accuracy"] == accuracy_score(rows["label"], rows["predicted"])
    low, high = wilson(figures["accuracy"], TEST_IMAGES)
    assert figures["accuracy_interval"] == pytest.approx({"low": low, "high": high}, abs=1e-6)
    assert figures["f1"] == pytest.approx(f1_score(rows["label"], rows["predicted"], average="macro"), abs=1e-6)
    top_2 = top_k_accuracy_score(labels, of_classes, k=2, labels=range(10))
    assert figures["top_2_accuracy"] == pytest.approx(top_2, abs=1e-6)
    brier = brier_score_loss(labels, of_classes, labels=list(range(10)), scale_by_half=False)
    assert figures["brier_score"] == pytest.approx(brier, abs=1e-5)
    classes = finished.table("metrics/evaluate/classes.csv", index_col="class")
    assert classes["recall"].is_monotonic_increasing
    for column, score in (("recall", recall_score), ("f1", f1_score)):
        by_class = score(rows["label"], rows["predicted"], labels=classes.index, average=None)
        assert classes[column].tolist() == pytest.approx(by_class.tolist(), abs=1e-6)
    for _, row in classes.iterrows():
        interval = wilson(row["recall"], int(row["support"]))
        assert (row["recall_low"], row["recall_high"]) == pytest.approx(interval, abs=1e-6)

    assert figures["temperature"] != 1
    session = onnxruntime.InferenceSession(finished.root / "models/classifier.onnx")
    test = AnnotatedImages(finished.root / ANNOTATIONS, finished.root / "data/test_images", split="test")
    logits, calibrated = session.run(["logits", "probabilities"], {"images": test.all_images().numpy()})
    for suffix, values in (("", calibrated), ("_uncalibrated", softmax(logits, axis=1))):
        arguments = torch.from_numpy(values), torch.from_numpy(labels), 10
        error = multiclass_calibration_error(*arguments, n_bins=15, norm="l1").item()
        assert figures[f"ece{suffix}"] == pytest.approx(error, abs=1e-4)
        assert figures[f"loss{suffix}"] == pytest.approx(log_loss(labels, values, labels=range(10)), abs=1e-4)


def test_temperature_and_tta_accuracy_equal_recomputed_ones(finished: Project) -> None:
    assert not {"accuracy_tta", "accuracy_mirrored"} & finished.json(DETAILS).keys()  # trained without mirror images
    finished.set(train__augment__hflip=True)
    finished.stage("train")
    warned = finished.stage("evaluate").stderr
    figures = finished.json(DETAILS)
    model, model_config = serialization.load(finished.root / MODEL)
    normalize = serialization.Normalize(model_config)
    validation = AnnotatedImages(finished.root / ANNOTATIONS, finished.root / "data/images", split="val")
    test = AnnotatedImages(finished.root / ANNOTATIONS, finished.root / "data/test_images", split="test")
    with torch.inference_mode():
        of_validation = model(normalize(validation.all_images()))
        mirrored = model(normalize(test.all_images().flip(-1)))
        both = model(normalize(test.all_images())) + mirrored
    temperature = fit_temperature(of_validation.numpy(), validation.labels.numpy())
    assert figures["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert figures["temperature"] != 1
    best, second = both.topk(2).values.T
    ties = (best - second < 1e-4).double().mean().item()  # classes that are each other's mirror images
    assert ties < 0.05
    expected = (both.argmax(1) == test.labels).double().mean().item()
    assert figures["accuracy_tta"] == pytest.approx(expected, abs=ties + 1e-6)
    assert figures["accuracy_mirrored"] == pytest.approx((mirrored.argmax(1) == test.labels).double().mean().item())
    lost = figures["accuracy"] - figures["accuracy_mirrored"]
    assert (f"mirror images are recognized {lost:.1%} worse" in warned) == (lost > 0.02)


def trained_with(rows: pd.DataFrame, project: Project) -> Any:
    """The figures of a model after training with these annotations."""
    project.write(ANNOTATIONS, rows.to_csv(index=False))
    for name in ("train", "evaluate"):
        project.stage(name)
    return project.json(DETAILS)


def test_temperature_is_independent_of_test_labels_and_one_without_validation_images(finished: Project) -> None:
    before, rows = finished.json(DETAILS), finished.table(ANNOTATIONS)
    is_test = rows["split"] == "test"
    rows.loc[is_test, ["label", "class_name"]] = rows.loc[is_test, ["label", "class_name"]].to_numpy()[::-1]
    after = trained_with(rows, finished)
    assert after["accuracy"] < 0.5 < before["accuracy"]
    assert after["temperature"] == before["temperature"]
    figures = trained_with(rows.replace({"split": {"val": "train"}}), finished)
    assert figures["temperature"] == 1
    assert figures["ece"] == figures["ece_uncalibrated"]


def test_model_as_good_as_chance_is_a_warning_and_below_the_minimum_an_error(finished: Project) -> None:
    """A model that says one class for everything is right on a tenth."""

    def always_the_same(tensors: dict[str, torch.Tensor], model_config: dict[str, object]) -> None:
        tensors["3.weight"].zero_()
        tensors["3.bias"] = torch.eye(10)[4]

    warning = "may be no better than always naming the most frequent class (10.00%)"
    assert warning not in finished.stage("evaluate").stderr
    rewrite(finished, always_the_same)
    finished.set(evaluate__minimum_accuracy=0.11)
    assert one_line(finished.stage("evaluate", status=1)) == (
        "evaluate: error: the accuracy on the test split is 0.1, below evaluate.minimum_accuracy 0.11; "
        "train a better model, or lower the minimum (0: none)\n"
    )
    assert not (finished.root / "metrics/evaluate.json").exists()
    for minimum in (0.1, 0.0):
        finished.set(evaluate__minimum_accuracy=minimum)
        assert warning in finished.stage("evaluate").stderr
        assert finished.json("metrics/evaluate.json")["accuracy"] == 0.1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors, _: tensors.pop("1.bias"), 'architecture mlp: Missing key(s) in state_dict: "1.bias"'),
        (lambda tensors, _: tensors.update(extra=torch.zeros(1)), 'Unexpected key(s) in state_dict: "extra"'),
        (
            lambda tensors, _: tensors.update({"1.bias": torch.zeros(5)}),
            "size mismatch for 1.bias: copying a param with shape torch.Size([5])",
        ),
        (lambda _, about: about.clear(), "its metadata do not describe a model of this pipeline"),
        (lambda _, about: about.update(architecture="vgg"), "its metadata do not describe a model"),
        (lambda _, about: about["class_names"].reverse(), "was trained for the classes Ankle boot, Bag"),
        (lambda _, about: about.update(height=14, width=56), "takes images of 1x14x56"),
    ],
)
def test_unsuitable_model_is_one_line(finished: Project, change: Callable[..., object], says: str) -> None:
    rewrite(finished, change)
    for stage in ("export", "evaluate"):
        line = one_line(finished.stage(stage, status=1))
        assert line.startswith(f"{stage}: error: {MODEL}: ")
        assert says in line


def test_file_that_is_no_model_is_named_by_the_report(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"no")
    with pytest.raises(StageError, match="not a model of this pipeline"):
        read_model(tmp_path / "model")


@pytest.mark.filterwarnings("error::pandas.errors.PerformanceWarning")
def test_predictions_of_many_classes_are_read_without_a_warning(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(300)]
    predictions.write(tmp_path / "table.csv", ["a", "b"], np.array([7, 7]), names, np.eye(300)[[7, 7]])
    read = predictions.read(tmp_path / "table.csv")
    assert read.class_names == names
    assert [*read.rows["confidence"]] == [1.0, 1.0]


def test_class_without_test_images_is_left_out_of_the_means(finished: Project) -> None:
    rows = finished.table(ANNOTATIONS)
    figures = trained_with(rows[(rows["class_name"] != "Bag") | (rows["split"] != "test")], finished)
    classes = finished.table("metrics/evaluate/classes.csv", index_col="class")
    assert classes["support"]["Bag"] == 0
    assert figures["f1"] == pytest.approx(classes.drop("Bag")["f1"].mean(), abs=1e-5)
    assert figures["balanced_accuracy"] == pytest.approx(classes.drop("Bag")["recall"].mean(), abs=1e-5)
