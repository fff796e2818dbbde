"""evaluate: the figures against scikit-learn, and what bad inputs get."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, log_loss, recall_score

from stages.lib.model_file import KEY
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
        card = json.loads(json.loads(file.read(size))["__metadata__"][KEY])
    change(tensors, card)
    path.unlink()
    save_file(tensors, path, metadata={KEY: json.dumps(card)} if card else None)


@pytest.mark.parametrize("stage", ["evaluate", "export"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors, card: tensors.pop("1.bias"), "do not fit the architecture mlp: 1.bias is missing"),
        (lambda tensors, card: tensors.update(extra=torch.zeros(1)), "extra is unknown"),
        (lambda tensors, card: tensors.update({"1.bias": torch.zeros(5)}), "1.bias is [5], not [32]"),
        (lambda tensors, card: card.clear(), "its metadata do not describe a model of this pipeline"),
        (lambda tensors, card: card.update(architecture="vgg"), "its metadata do not describe a model"),
        (lambda tensors, card: card["class_names"].reverse(), "was trained for the classes Ankle boot, Bag"),
        (lambda tensors, card: card.update(height=14, width=56), "takes images of 1x14x56"),
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
