"""train: what a person can choose beside model and optimizer, and what a run shows while it goes on."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from classifier import images, yaml_file
from classifier.dataset import AnnotatedImages
from classifier.errors import StageError
from classifier.model import zoo
from classifier.model.serialization import load
from classifier.train import pretrained
from classifier.train.augment import rotate
from classifier.train.early_stopping import EarlyStopping
from classifier.train.losses import make_loss
from classifier.train.optim import make_optimizer
from tests.project import REPOSITORY, Project, kill_group, wait_for


def metrics(project: Project, name: str = "train") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(project.read(f"metrics/{name}.json"))
    return content


def weights(project: Project, path: str = "models/classifier.safetensors") -> dict[str, torch.Tensor]:
    model, _ = load(project.root / path)
    return model.state_dict()


# --- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["nll", "mse"])
def test_every_loss_learns(finished: Project, loss: str) -> None:
    finished.set(train__loss=loss, train__optimizer="adam", train__epochs=10)
    finished.set_all({"optimizers.adam.lr": 0.01})
    finished.stage("train")
    assert metrics(finished)["val_accuracy"] > 0.6  # chance is 0.1


def test_losses_are_those_of_torch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, 5), torch.randint(0, 5, (20,))
    cross_entropy = nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(make_loss("nll", {}, 5).training(logits, labels), cross_entropy)
    smoothed = make_loss("cross_entropy", {"label_smoothing": 0.3}, 5)
    torch.testing.assert_close(
        smoothed.training(logits, labels), nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    )
    torch.testing.assert_close(smoothed.validation(logits, labels), cross_entropy)
    mse = make_loss("mse", {}, 5)
    assert mse.target_transform
    targets = torch.stack([mse.target_transform(int(label)) for label in labels])
    assert torch.equal(targets, nn.functional.one_hot(labels, 5).float())
    torch.testing.assert_close(mse.training(logits, targets), (logits.softmax(1) - targets).square().mean())


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "mse"])
def test_the_loss_of_chance_is_that_of_equal_probabilities(name: str) -> None:
    loss = make_loss(name, {}, 7)
    labels = torch.arange(7)
    targets = torch.stack([loss.target_transform(int(x)) for x in labels]) if loss.target_transform else labels
    assert loss.training(torch.zeros(7, 7), targets).item() == pytest.approx(loss.chance_loss)


# --- torchvision's models -------------------------------------------------------------------------------------------

# One of each family that fits into a test: plain, residual, dense, inverted, branching, depthwise, patches, attention.
FAMILIES = ["alexnet", "vgg11_bn", "resnet18", "densenet121", "mobilenet_v3_small", "googlenet", "shufflenet_v2_x0_5",
            "squeezenet1_1", "mnasnet0_5", "regnet_y_400mf", "efficientnet_b0", "convnext_tiny", "swin_t"]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvisions_models_fit_channels_sizes_and_classes(name: str) -> None:
    for channels, size in ((1, (28, 28)), (3, (64, 80))):
        model = zoo.build_model(name, {}, channels, size, 7).to("meta")
        assert model(torch.empty(2, channels, *size, device="meta")).shape == (2, 7)


def test_a_torchvision_model_trains_by_its_name(finished: Project) -> None:
    finished.set(train__model="mobilenet_v3_small", train__epochs=1, train__batch_size=60)
    assert finished.repro() == ["train", "evaluate", "export", "report"]
    _, model_config = load(finished.root / "models/classifier.safetensors")
    assert model_config.architecture == "mobilenet_v3_small"


def test_an_unknown_model_or_argument_is_named() -> None:
    with pytest.raises(ValueError, match="torchvision has no classification model 'resnet19'"):
        zoo.build_model("resnet19", {}, 1, (28, 28), 10)
    with pytest.raises(ValueError, match=r"models.resnet18: .*depth"):
        zoo.build_model("resnet18", {"depth": 3}, 1, (28, 28), 10)


def test_the_layers_are_printed_with_shapes_and_weights(finished: Project) -> None:
    output = finished.stage("train").stdout
    assert re.search(r"train:   1 +Linear +32 +25,120\n", output)
    assert "train: mlp with 25,450 weights, 360 images, 6 epochs, cpu\n" in output


# --- warm start and freezing ----------------------------------------------------------------------------------------


def test_a_warm_start_takes_what_fits_and_lists_the_rest(finished: Project) -> None:
    from safetensors.torch import load_file, save_file

    finished.set(train__epochs=1)
    first = load_file(finished.root / "models/classifier.safetensors")
    start = {**first, "3.weight": torch.zeros(5, 32), "extra": torch.zeros(1)}
    del start["3.bias"]
    save_file(start, finished.root / "models/pretrained/mine.safetensors")
    finished.set(train__warm_start="mine.safetensors", train__freeze=["1.*"])
    assert finished.repro() == ["train", "evaluate", "export", "report"]
    finished.run("git", "checkout", "dvc.lock")
    output = finished.stage("train").stdout
    assert "train: warm start from models/pretrained/mine.safetensors: 2 tensors taken" in output
    assert "train:   missing: 3.bias\n" in output
    assert "train:   unexpected: extra\n" in output
    assert "train:   misshaped: 3.weight (5x32, not 10x32)\n" in output
    assert "(25,120 frozen)" in output
    after = weights(finished)
    assert torch.equal(after["1.weight"], first["1.weight"])
    assert not torch.equal(after["3.weight"], first["3.weight"])
    # The file is an input as any other: other content is another run.
    save_file(first, finished.root / "models/pretrained/mine.safetensors")
    assert "train" in finished.repro()


def test_frozen_statistics_do_not_move(finished: Project) -> None:
    finished.set_all({"train.model": "cnn", "models.cnn.stem": 4, "models.cnn.widths": [4, 8], "train.epochs": 1})
    finished.stage("train")
    before = weights(finished)
    shutil.copy(finished.root / "models/classifier.safetensors", finished.root / "models/pretrained/a.safetensors")
    finished.set_all(
        {"train.initial_checkpoint": "a.safetensors", "train.freeze": ["[0-3].*"], "train.optimizer": "muon"}
    )
    finished.stage("train")
    after = weights(finished)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if re.match(r"[0-3]\.", name)}


def test_bad_warm_starts_and_patterns_are_one_line(finished: Project) -> None:
    finished.set(train__warm_start="none.safetensors")
    assert "models/pretrained/none.safetensors is missing" in finished.stage("train", status=1).stderr
    (finished.root / "models/pretrained/none.safetensors").write_bytes(b"no weights")
    assert "no readable safetensors file" in finished.stage("train", status=1).stderr
    finished.set(train__warm_start="none", train__freeze=["9.*"])
    assert "train.freeze: '9.*' matches no tensor; the model has 1.weight" in finished.stage("train", status=1).stderr
    finished.set(train__freeze=["*"])
    assert "train.freeze: leaves nothing to train" in finished.stage("train", status=1).stderr
    with pytest.raises(StageError, match="no tensor fits"):
        pretrained.load_pretrained(nn.Linear(3, 3), _file(finished.root, {"other": torch.zeros(1)}))


def _file(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    from safetensors.torch import save_file

    save_file(tensors, folder / "x.safetensors")
    return folder / "x.safetensors"


# --- when to stop and what to keep ----------------------------------------------------------------------------------


def test_patience_and_the_best_epoch(finished: Project) -> None:
    # A learning rate that is far too high after the first epochs: the loss rises again.
    finished.set_all({"train.epochs": 40, "train.patience": 2, "train.keep": "best", "train.schedule": "constant"})
    finished.set_all({"optimizers.sgd.lr": 0.3, "train.warmup_fraction": 0.9})
    output = finished.stage("train").stdout
    curve = pd.read_csv(finished.root / "metrics/train/curves.csv")
    best = curve.sort_values("val_loss").iloc[0]
    assert len(curve) < 40
    assert len(curve) == best["epoch"] + 2
    assert f"stopped after epoch {len(curve)}: no lower validation loss since epoch {best['epoch']:.0f}" in output
    assert metrics(finished)["val_loss"] == best["val_loss"]
    assert metrics(finished)["epoch"] == best["epoch"]
    # The weights are those of that epoch: their loss is its loss.
    model, model_config = load(finished.root / "models/classifier.safetensors")
    from classifier.model.serialization import Normalize

    data = AnnotatedImages(finished.root / "data/annotations.csv", finished.root / "data/images.zip", split="val")
    with torch.inference_mode():
        logits = model(Normalize(model_config)(data.all_images()))
    assert nn.functional.cross_entropy(logits, data.labels).item() == pytest.approx(best["val_loss"], abs=1e-5)


def test_a_selection_goes_on_where_it_was() -> None:
    losses = [3.0, 2.0, 2.5, 2.6]
    model = nn.Linear(1, 1)
    straight, resumed = EarlyStopping("best", 3), EarlyStopping("best", 3)
    for epoch, loss in enumerate(losses, 1):
        nn.init.constant_(model.weight, epoch)
        straight.update(epoch, loss, model)
        resumed.update(epoch, loss, model)
        again = EarlyStopping("best", 3)
        again.load_state_dict(resumed.state_dict())
        resumed = again
        assert (resumed.best_epoch, resumed.should_stop) == (straight.best_epoch, straight.should_stop)
    resumed.restore_best(model)
    assert (model.weight.item(), resumed.best_epoch) == (2, 2)


@pytest.mark.parametrize("change", [{"train.patience": 3}, {"train.keep": "best"}])
def test_selecting_needs_validation_rows(finished: Project, change: dict[str, Any]) -> None:
    finished.set_all({**change, "annotate.validation_fraction": 0.0})
    finished.stage("annotate")
    (key,) = change
    assert f"train: error: {key}: needs validation rows" in finished.stage("train", status=1).stderr


# --- what is stopped early ------------------------------------------------------------------------------------------


def test_a_last_batch_too_small_for_batch_normalisation(finished: Project) -> None:
    finished.set_all({"train.model": "cnn", "models.cnn.widths": [4, 4, 4, 4], "train.batch_size": 359})
    done = finished.stage("train", status=1)
    assert "train.batch_size: leaves a last batch of 1, too few for batch normalization" in done.stderr


def test_inputs_far_off_are_noticed_at_the_first_step(finished: Project) -> None:
    finished.edit("classifier/model/serialization.py", "mul_(self.scale)", "mul_(self.scale * 1000)")
    assert re.search(
        r"the loss is [\d.]+ at the start, where chance gives 2.30", finished.stage("train", status=1).stderr
    )


# --- what a person sees while it runs -------------------------------------------------------------------------------


def test_the_curve_grows_while_the_run_goes_on(finished: Project) -> None:
    finished.set(train__epochs=10_000)
    path = finished.root / "metrics/train/curves.csv"
    path.unlink()  # of the run before
    process = finished.start("python", "-m", "stages.train")
    wait_for(lambda: path.exists() and len(path.read_text().splitlines()) > 3)
    rows = pd.read_csv(path)
    assert rows["epoch"].tolist() == list(range(1, len(rows) + 1))
    kill_group(process, 15)
    output, errors = process.communicate(timeout=60)
    assert re.search(r"train: epoch 2/10000: .* left\n", output), (output[:500], errors)
    assert not path.exists()  # a stage that was stopped leaves nothing that looks finished


def test_tensorboard_files_hold_the_curve_and_the_graph(finished: Project) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = finished.read("models/classifier.safetensors")
    finished.set(runtime__tensorboard=True)
    assert finished.repro() == []  # how a run behaves reruns nothing
    for _ in range(2):  # a second run writes its folder anew: no step twice
        finished.stage("train")
    assert finished.read("models/classifier.safetensors") == before
    (folder,) = (finished.root / "logs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    curve = pd.read_csv(finished.root / "metrics/train/curves.csv")
    scalars = events.Scalars("loss/val")
    assert [event.step for event in scalars] == curve["epoch"].tolist()
    np.testing.assert_allclose([event.value for event in scalars], curve["val_loss"], atol=1e-5)
    assert events.Graph().node
    assert finished.run("git", "status", "--porcelain").stdout.split() == ["M", "params.yaml"]


# --- more data than memory ------------------------------------------------------------------------------------------


def test_images_read_from_the_disk_give_the_same_bytes(finished: Project) -> None:
    before = finished.read("models/classifier.safetensors")
    finished.set_all({"runtime.image_memory_mb": 0.01, "runtime.prefetch_threads": 3})
    finished.stage("train")
    assert finished.read("models/classifier.safetensors") == before


def test_batches_come_in_order_from_memory_and_from_the_disk(finished: Project) -> None:
    files = (finished.root / "data/annotations.csv", finished.root / "data/images.zip")
    memory, disk = AnnotatedImages(*files), AnnotatedImages(*files, memory_mb=0.1)
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


def test_a_wrong_image_is_named_when_it_is_read_late(tmp_path: Path) -> None:
    pixels = [np.zeros((4, 4), np.uint8)] * 20 + [np.zeros((4, 5), np.uint8)]
    images.write_zip(tmp_path / "a.zip", [f"{n}.png" for n in range(21)], pixels)
    lines = ["image,label,class_name,split", *(f"{n}.png,0,cat,train" for n in range(21))]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    data = AnnotatedImages(tmp_path / "a.csv", tmp_path / "a.zip", memory_mb=0)
    with pytest.raises(StageError, match=r"20.png: is 1x4x5 .* but the images before it are 1x4x4"):
        list(data.iter_batches(3))


# --- parts ----------------------------------------------------------------------------------------------------------


def test_rotate_turns_each_image_about_its_centre() -> None:
    torch.manual_seed(0)
    pixels = torch.zeros(300, 2, 21, 31, dtype=torch.uint8)
    pixels[:, :, 9:12, 14:17] = 255  # the center stays
    pixels[:, :, 9:12, 25:28] = 255  # 11 to the right of it
    turned = rotate(pixels, 30).float()
    assert (turned[:, 0, 10, 15] > 200).all()
    right = turned[:, 0, :, 20:]
    y = (right.sum(2) * torch.arange(21)).sum(1) / right.sum((1, 2)) - 10
    assert -6 < y.min() < -4.5  # 11 sin(30 degrees) is 5.5
    assert 4.5 < y.max() < 6
    assert torch.equal(turned[:, 0], turned[:, 1])  # channels turn together


def test_clipped_gradients_change_the_result(finished: Project) -> None:
    before = weights(finished)["1.weight"]
    finished.set(train__clip_norm=0.01)
    finished.stage("train")
    after = weights(finished)["1.weight"]
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "muon"])
def test_an_optimizer_goes_on_from_its_saved_state_to_the_same_bits(name: str) -> None:
    options = yaml_file.load((REPOSITORY / "params.yaml").read_text())["optimizers"][name]
    images, labels = torch.randn(6, 16, 1, 28, 28), torch.randint(0, 10, (6, 16))

    def start() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = zoo.build_model("lenet", {}, 1, (28, 28), 10)
        return model, make_optimizer(name, options, model)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            torch.nn.functional.cross_entropy(model(images[step]), labels[step]).backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, first, second = start(), start(), start()
    train(*whole, range(6))
    train(*first, range(3))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    of_model, of_optimizer = torch.load(file, weights_only=True)
    second[0].load_state_dict(of_model)
    second[1].load_state_dict(of_optimizer)
    train(*second, range(3, 6))
    for one, other in zip(whole[0].state_dict().values(), second[0].state_dict().values(), strict=True):
        assert torch.equal(one, other)
