"""train: losses, initial weights, early stopping, memory, and what a run shows while it goes on."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from classifier.data.dataset import AnnotatedImages
from classifier.errors import StageError
from classifier.model.serialization import ModelConfig, Normalize, load
from classifier.train import pretrained, setup
from tests.project import Project, kill_group, wait_for

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torchvision.models import mobilenet_v3_small

MODEL = "models/classifier.safetensors"


def weights(project: Project) -> dict[str, torch.Tensor]:
    return load_file(project.root / MODEL)


def test_torchvision_model_trains_by_name(finished: Project) -> None:
    finished.set(train__model="mobilenet_v3_small", train__epochs=1, train__batch_size=60)
    finished.stage("train")
    _, model_config = load(finished.root / MODEL)
    assert model_config.architecture == "mobilenet_v3_small"


def test_model_summary_has_shapes_and_parameters(finished: Project) -> None:
    output = finished.stage("train").stdout
    assert re.search(r"train:   1 +Linear +32 +25,120\n", output)
    assert "train: mlp with 25,450 parameters, 359 images, 6 epochs, cpu\n" in output


def test_initial_checkpoint_loads_what_fits_and_lists_the_rest(finished: Project) -> None:
    finished.set(train__epochs=1)
    first = load_file(finished.root / MODEL)
    start = {**first, "3.weight": torch.zeros(5, 32), "extra": torch.zeros(1)}
    del start["3.bias"]
    save_file(start, finished.root / "models/pretrained/mine.safetensors")
    finished.set(train__initial_checkpoint="mine.safetensors", train__freeze=["1.*"])
    assert finished.repro("train") == ["train"]
    finished.run("git", "checkout", "dvc.lock")
    output = finished.stage("train").stdout
    assert "train: initial weights from models/pretrained/mine.safetensors: 2 tensors loaded" in output
    assert "train:   missing: 3.bias\n" in output
    assert "train:   unexpected: extra\n" in output
    assert "train:   misshaped: 3.weight (5x32, not 10x32)\n" in output
    assert "(25,120 frozen)" in output
    after = weights(finished)
    assert torch.equal(after["1.weight"], first["1.weight"])
    assert not torch.equal(after["3.weight"], first["3.weight"])
    # The file is an input as any other: other content is another run.
    save_file(first, finished.root / "models/pretrained/mine.safetensors")
    assert finished.repro("train") == ["train"]


def test_frozen_statistics_do_not_change(finished: Project) -> None:
    finished.set_all({"train.model": "cnn", "models.cnn.stem": 4, "models.cnn.widths": [4, 8], "train.epochs": 1})
    finished.stage("train")
    before = weights(finished)
    shutil.copy(finished.root / MODEL, finished.root / "models/pretrained/a.safetensors")
    finished.set(train__initial_checkpoint="a.safetensors", train__freeze=["[0-3].*"], train__optimizer="muon")
    finished.stage("train")
    after = weights(finished)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if re.match(r"[0-3]\.", name)}


def test_bad_initial_checkpoint_is_one_line(finished: Project) -> None:
    finished.set(train__initial_checkpoint="none.safetensors")
    (finished.root / "models/pretrained/none.safetensors").write_bytes(b"no weights")
    assert "not a readable safetensors file" in finished.stage("train", status=1).stderr
    save_file({"other": torch.zeros(1)}, finished.root / "x.safetensors")
    with pytest.raises(StageError, match="no tensor fits"):
        pretrained.load_pretrained(nn.Linear(3, 3), finished.root / "x.safetensors")


def test_patience_stops_and_best_epoch_is_kept(finished: Project) -> None:
    # A learning rate that is far too high after the first epochs: the loss rises again.
    finished.set_all({"train.epochs": 40, "train.patience": 2, "train.keep": "best", "train.schedule": "constant"})
    finished.set_all({"optimizers.sgd.lr": 0.3, "train.warmup_fraction": 0.9})
    output = finished.stage("train").stdout
    curve = finished.table("metrics/train/curves.csv")
    best = curve.sort_values("val_loss").iloc[0]
    assert len(curve) < 40
    assert len(curve) == best["epoch"] + 2
    assert f"stopped early after epoch {len(curve)}: no lower validation loss since epoch {best['epoch']:.0f}" in output
    metrics = finished.json("metrics/train.json")
    assert (metrics["val_loss"], metrics["val_acc"]) == (best["val_loss"], best["val_acc"])
    # The weights are those of that epoch: their loss is its loss.
    model, model_config = load(finished.root / MODEL)
    data = AnnotatedImages(finished.root / "data/annotations.csv", finished.root / "data/images", split="val")
    with torch.inference_mode():
        logits = model(Normalize(model_config)(data.all_images()))
    assert nn.functional.cross_entropy(logits, data.labels).item() == pytest.approx(best["val_loss"], abs=1e-5)


def test_unnormalized_inputs_fail_at_the_first_step(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Normalize, "forward", lambda self, pixels: pixels.float() * 1000)
    errors = finished.stage("train", status=3).stderr
    assert re.search(r"the loss is [\d.]+ at the start, where chance gives 2.30", errors)


def test_curves_and_metrics_follow_a_training_that_runs(finished: Project) -> None:
    finished.set(train__epochs=10_000)
    curves, figures = (finished.root / name for name in ("metrics/train/curves.csv", "metrics/train.json"))
    for path in (curves, figures):
        path.unlink()  # of the run before
    process = finished.start("dvc", "repro", "train")
    wait_for(lambda: figures.exists() and len(curves.read_text().splitlines()) > 3)
    shown = json.loads(finished.dvc("exp", "show", "--json").stdout)[0]["data"]["metrics"]["metrics/train.json"]["data"]
    rows = pd.read_csv(curves)
    assert rows["epoch"].tolist() == list(range(1, len(rows) + 1))
    assert any(shown.items() <= row.items() for row in rows.to_dict("records"))
    kill_group(process, 15)
    output, errors = process.communicate(timeout=60)
    assert re.search(r"train: epoch 2/10000: .* left\n", output), (output[:500], errors)
    assert not curves.exists()  # a stage that was stopped leaves nothing that looks finished
    assert not figures.exists()


def test_tensorboard_files_hold_curves_and_graph(finished: Project) -> None:
    before = finished.read(MODEL)
    finished.set(runtime__tensorboard=True)
    assert finished.repro() == []  # how a run behaves reruns nothing
    for _ in range(2):  # a second run writes its folder anew: no step twice
        finished.stage("train")
    assert finished.read(MODEL) == before
    (folder,) = (finished.root / "logs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    curve = finished.table("metrics/train/curves.csv")
    scalars = events.Scalars("loss/val")
    assert [event.step for event in scalars] == curve["epoch"].tolist()
    np.testing.assert_allclose([event.value for event in scalars], curve["val_loss"], atol=1e-5)
    assert events.Graph().node
    assert finished.run("git", "status", "--porcelain").stdout.split() == ["M", "params.yaml"]


def test_batches_and_models_are_equal_from_memory_and_disk(finished: Project) -> None:
    files = (finished.root / "data/annotations.csv", finished.root / "data/images")
    memory, disk = (AnnotatedImages(*files, split="train", memory_mb=limit) for limit in (None, 0.1))
    assert memory.images is not None
    assert disk.images is None
    plan = torch.randperm(len(memory)).split(7)
    for (a, x), (b, y), indices in zip(memory.batches(plan), disk.batches(plan), plan, strict=True):
        assert torch.equal(a, indices)
        assert torch.equal(b, indices)
        assert torch.equal(x, y)
    image, label = disk[3]
    assert torch.equal(image, memory[3][0])
    assert label == memory[3][1]
    before = finished.read(MODEL)
    finished.set_all({"runtime.image_memory_mb": 0.01, "runtime.prefetch_threads": 3})
    finished.stage("train")
    assert finished.read(MODEL) == before


def test_training_stops_after_an_epoch_and_goes_on_to_the_same_bytes(finished: Project) -> None:
    expected = finished.read(MODEL)
    for epoch in (2, 5):
        finished.set(runtime__stop_after_epoch=epoch)
        stopped = finished.stage("train", status=75)
        assert f"stopped after epoch {epoch}, as runtime.stop_after_epoch says; it is saved" in stopped.stderr
        assert not (finished.root / MODEL).exists()
    finished.set(runtime__stop_after_epoch=4)  # it is further already
    finished.stage("train", status=75)
    finished.set(optimizers__sgd__lr=0.02)
    assert "resuming" not in finished.stage("train", status=75).stdout
    finished.set(optimizers__sgd__lr=0.05, runtime__stop_after_epoch=0)
    assert "resuming at step 45 of 54" in finished.stage("train").stdout
    assert finished.read(MODEL) == expected


@pytest.mark.parametrize(("channels", "mean"), [(3, [0.485, 0.456, 0.406]), (1, [0.449])])
def test_weights_for_imagenet_get_its_mean_and_fit_by_name(tmp_path: Path, channels: int, mean: list[float]) -> None:
    torch.manual_seed(0)
    path = tmp_path / "x.safetensors"
    save_file(mobilenet_v3_small(weights=None).state_dict(), path)
    config: Any = SimpleNamespace(normalize="imagenet")
    pixels: Any = SimpleNamespace(shape=(channels, 224, 224))
    means, stds = setup.mean_and_std(config, pixels)
    assert means == pytest.approx(mean)
    model_config = ModelConfig("mobilenet_v3_small", {}, ["a", "b"], channels, 224, 224, means, stds, {})
    names = pretrained.load_pretrained(model_config.build(), path)
    replaced = ["classifier.3.weight", "classifier.3.bias", *(["features.0.0.weight"] if channels == 1 else [])]
    assert sorted(name.partition(" ")[0] for name in names["misshaped"]) == sorted(replaced)
    assert not names["missing"] + names["unexpected"]
