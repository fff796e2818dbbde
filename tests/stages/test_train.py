"""train: models, optimizers, seeds, and what an impossible setup gets."""

import json
from pathlib import Path
from typing import Any

from classifier.config.variants import Losses
from classifier.data.dataset import AnnotatedImages
from classifier.model import zoo
from classifier.model.serialization import Normalize, load
from tests.project import Project, one_line
from tests.support.recipes import states

import pytest


@pytest.mark.parametrize(
    "change",
    [
        {"train.optimizer": "sgd", "train.schedule": "constant"},
        {"train.optimizer": "adam", "train.schedule": "cosine"},
        {"train.optimizer": "adamw", "train.schedule": "step"},
        {"train.optimizer": "rmsprop", "train.schedule": "linear", "compute.portable": False},
        {"train.optimizer": "adagrad", "train.schedule": "constant"},
        {"train.optimizer": "muon", "train.schedule": "linear", "train.model": "cnn"},
        *(
            {"train.loss": name, "train.optimizer": "adam", "optimizers.adam.lr": 0.01, "train.epochs": 10}
            for name in sorted({*Losses.model_fields} - {"cross_entropy"})
        ),
    ],
    ids=lambda change: "-".join(str(value) for value in change.values()),
)
def test_every_optimizer_schedule_and_loss_learns(finished: Project, change: dict[str, Any]) -> None:
    finished.set_all(change)
    finished.stage("train")
    assert finished.json("metrics/train.json")["val_acc"] > 0.6  # chance is 0.1


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_model_learns(finished: Project, name: str, precision: str) -> None:
    finished.set(train__model=name, train__precision=precision, train__epochs=6, train__batch_size=20)
    finished.set(compute__portable=precision == "fp32")
    finished.set_all({"models.cnn.widths": [8, 16, 16]})
    finished.stage("train")
    finished.stage("evaluate")
    assert finished.json("metrics/evaluate.json")["accuracy"] > 0.8  # chance is 0.1


def test_seed_and_clipped_gradients_change_the_model(finished: Project) -> None:
    found = [finished.read("models/classifier.safetensors")]
    for change in ({}, {"train.seed": 1}, {"train.seed": 0, "train.clip_grad_norm": 0.01}):
        finished.set_all(change)
        finished.stage("train")
        found.append(finished.read("models/classifier.safetensors"))
    assert found[0] == found[1]
    assert len({*found}) == 3


def test_curves_have_one_row_per_epoch_and_end_in_the_metrics(finished: Project) -> None:
    curve = finished.table("metrics/train/curves.csv")
    assert curve["epoch"].tolist() == list(range(1, 7))
    assert curve["train_loss"].iloc[-1] < curve["train_loss"].iloc[0]
    metrics = finished.json("metrics/train.json")
    for key in ("train_loss", "train_acc", "val_loss", "val_acc"):
        assert metrics[key] == curve[key].iloc[-1]
    assert metrics.keys() == {"train_acc", "train_loss", "val_acc", "val_loss"}


NO_VALIDATION = {"annotate.validation_fraction": 0.0}
# One step on all images, so that only its result shows it.
OVERFLOW = {"train.epochs": 1, "train.warmup_fraction": 0.0, "optimizers.sgd.lr": 3e38}
OVERFLOW |= {"train.batch_size": 359, "optimizers.sgd.weight_decay": 1e3}


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"optimizers.sgd.lr": 1e30}, 3, "step"),
        ({"optimizers.sgd.lr": 1e9}, 3, "a smaller optimizers.*.lr would help"),
        (OVERFLOW, 3, "the validation loss is nan after epoch 1; a smaller"),
        ({**OVERFLOW, **NO_VALIDATION, "train.batch_size": 400}, 3, "a weight is not finite after the last step"),
        ({"train.batch_size": 100_000}, 2, "train.batch_size: 100000 is more than the 359 training images"),
        ({"compute.device": "mps"}, 1, "compute.device: this machine has no usable mps; auto takes what is available"),
        ({"train.model": "cnn", "models.cnn.widths": [8] * 6}, 2, "too small for the model cnn"),
        ({"train.model": "cnn", "train.batch_size": 358}, 2, "a last batch of 1, too few for batch normalization"),
        ({**NO_VALIDATION, "train.patience": 3}, 2, "train.patience: needs validation images"),
        ({**NO_VALIDATION, "train.keep": "best"}, 2, "train.keep: needs validation images"),
        (
            {"train.initial_checkpoint": "gone.safetensors"},
            1,
            "models/pretrained/gone.safetensors is missing; put your file there, or name another"
            " `train.initial_checkpoint` in params.yaml",
        ),
        ({"train.freeze": ["9.*"]}, 2, "train.freeze: '9.*' matches no tensor; the model has 1.weight"),
        ({"train.freeze": ["*"]}, 2, "train.freeze: leaves nothing to train"),
    ],
)
def test_impossible_setup_is_one_line(finished: Project, change: dict[str, Any], status: int, says: str) -> None:
    finished.set_all(change)
    if "annotate.validation_fraction" in change:
        finished.stage("annotate")
    line = one_line(finished.stage("train", status=status))
    assert says in line
    assert line.startswith("train: error: ")
    assert not (finished.root / "models/classifier.safetensors").exists()


def test_normalized_training_pixels_have_mean_0_and_deviation_1(finished: Project) -> None:
    _, model_config = load(finished.root / "models/classifier.safetensors")
    data = AnnotatedImages(finished.root / "data/annotations.csv", finished.root / "data/images", split="train")
    values = Normalize(model_config)(data.all_images())
    assert values.mean().item() == pytest.approx(0, abs=1e-4)
    assert values.std().item() == pytest.approx(1, abs=1e-4)


def test_environment_and_state_know_the_processor_and_the_variables_that_change_bits(finished: Project) -> None:
    finished.set_all({"compute.portable": False, "train.epochs": 2, "runtime.stop_after_epoch": 1})
    finished.stage("train", status=75)
    finished.environment["ONEDNN_MAX_CPU_ISA"] = "SSE41"
    finished.stage("train", status=75)
    decided = [json.loads((folder / "fingerprint.json").read_text())["environment"] for folder in states(finished)]
    assert sorted("ONEDNN_MAX_CPU_ISA=SSE41" in each["variables"] for each in decided) == [False, True]
    environment = finished.json("models/environment.json")
    assert environment["cpu_vendor"]
    assert environment["cpu_model"]
    if Path("/proc/cpuinfo").exists():
        known = Path("/proc/cpuinfo").read_text()
        assert environment["cpu_vendor"] in known or environment["cpu_vendor"] == "unknown"
        assert environment["cpu_model"] in known
