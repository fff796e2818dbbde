"""train: models, recipes, the exact resume, and what a doomed run gets."""

import itertools
import json
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from classifier.model import zoo
from classifier.model.serialization import ModelConfig, Normalize, load, save
from classifier.seeds import derive_seed, derive_seeds
from classifier.train.augment import cutout, hflip, translate
from classifier.train.checkpoint import Checkpoint
from classifier.train.muon import Muon, orthogonal
from classifier.train.optim import Schedule, make_optimizer
from tests.project import SMALL_PARAMS, Project, kill_group, wait_for

MODEL_ARGUMENTS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [32]},
    "lenet": {},
    "cnn": {"stem": 4, "widths": [8, 16, 16]},
}


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_model_learns(finished: Project, name: str, precision: str) -> None:
    finished.set(train__model=name, train__precision=precision, train__epochs=12, train__batch_size=20)
    finished.set_all({"models.cnn.widths": [8, 16, 16]})
    finished.stage("train")
    finished.stage("evaluate")
    assert json.loads(finished.read("metrics/evaluate.json"))["accuracy"] > 0.8  # chance is 0.1


@pytest.mark.parametrize(
    ("optimizer", "schedule", "model"),
    [
        ("sgd", "constant", "mlp"),
        ("adam", "cosine", "mlp"),
        ("adamw", "step", "mlp"),
        ("rmsprop", "linear", "mlp"),
        ("adagrad", "constant", "mlp"),
        ("muon", "linear", "cnn"),
    ],
)
def test_every_optimizer_and_schedule_learns(finished: Project, optimizer: str, schedule: str, model: str) -> None:
    finished.set(train__optimizer=optimizer, train__schedule=schedule, train__model=model)
    finished.stage("train")
    assert json.loads(finished.read("metrics/train.json"))["val_accuracy"] > 0.6  # chance is 0.1


def test_the_curve_has_one_row_an_epoch_and_ends_in_the_metrics(finished: Project) -> None:
    curve = pd.read_csv(finished.root / "metrics/train/curves.csv")
    assert curve["epoch"].tolist() == list(range(1, SMALL_PARAMS["train.epochs"] + 1))
    assert curve["train_loss"].iloc[-1] < curve["train_loss"].iloc[0]
    metrics = json.loads(finished.read("metrics/train.json"))
    for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert metrics[key] == curve[key].iloc[-1]
    model, _ = load(finished.root / "models/classifier.safetensors")
    assert metrics["weights"] == sum(parameter.numel() for parameter in model.parameters())


def test_another_seed_is_another_model_and_the_same_seed_the_same(finished: Project) -> None:
    first = finished.read("models/classifier.safetensors")
    finished.stage("train")
    assert finished.read("models/classifier.safetensors") == first
    finished.set(train__seed=1)
    finished.stage("train")
    assert finished.read("models/classifier.safetensors") != first


# --- the exact resume -----------------------------------------------------------------------------------------------

LONG: dict[str, Any] = {"train.epochs": 30, "train.model": "cnn", "runtime.checkpoint_seconds": 0}
LONG |= {"models.cnn.stem": 4, "models.cnn.widths": [4, 8, 8]}
LONG |= {"train.ema_decay": 0.9, "train.augment.cutout_pixels": 4, "train.optimizer": "muon"}


@pytest.fixture
def undisturbed(finished: Project, tmp_path: Path) -> Project:
    """A longer run that uses everything that has a state, finished without a disturbance."""
    finished.set_all(LONG)
    finished.commit("a longer run")
    project = finished.copy(tmp_path / "undisturbed")
    project.repro()
    return project


def checkpoints(project: Project) -> list[Path]:
    return list(project.root.glob("scratch/train-*/[!.]*.pt"))


def newer(project: Project, before: dict[Path, bytes]) -> bool:
    try:
        return any(path.read_bytes() != before.get(path) for path in checkpoints(project))
    except FileNotFoundError:  # just being replaced
        return False


def test_killed_and_interrupted_runs_end_with_the_same_bytes(finished: Project, undisturbed: Project) -> None:
    signals = itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    for delay, signum in zip([0.0, 0.1, 0.3, 0.5], signals, strict=False):
        process = finished.start("dvc", "repro")
        before = {path: path.read_bytes() for path in checkpoints(finished)}
        wait_for(lambda before=before: newer(finished, before))  # type: ignore[misc]
        with pytest.raises(Exception, match="timed out"):
            process.wait(delay)
        kill_group(process, signum)
        output, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert not (finished.root / "models/classifier.safetensors").exists()
        if signum != signal.SIGKILL:
            assert "is saved; the same command goes on from there" in errors
        assert ("resuming at step" in output) == bool(before)
    output = finished.dvc("repro").stdout
    assert "train: resuming at step" in output
    assert finished.read("dvc.lock") == undisturbed.read("dvc.lock")
    assert checkpoints(finished) == []


def test_a_trainer_whose_dvc_was_killed_saves_and_stops_at_once(finished: Project) -> None:
    # Many steps an epoch and no timed checkpoint: only the look at the parent can end it between two epochs.
    finished.set_all({**LONG, "train.epochs": 100_000, "train.batch_size": 2, "runtime.checkpoint_seconds": 1000})
    process = finished.start("dvc", "repro", "train")
    wait_for(lambda: bool(checkpoints(finished)))
    process.kill()  # dvc alone: its child runs on
    process.wait(60)
    _, errors = process.communicate(timeout=20)  # until the child, too, has closed its output
    assert "train: error: the `dvc` that started this stage is gone; step" in errors
    assert "is saved; the same command goes on from there" in errors
    assert not (finished.root / "models/classifier.safetensors").exists()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished: Project, undisturbed: Project) -> None:
    process = finished.start("dvc", "repro")
    wait_for(lambda: any(finished.root.glob("scratch/train-*/older.pt")))
    kill_group(process, signal.SIGTERM)  # SIGKILL could fall between renaming one state and writing the next
    process.communicate(timeout=60)  # until the trainer, too, has ended
    (path,) = finished.root.glob("scratch/train-*/newest.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = finished.dvc("repro")
    assert "newest.pt is damaged; falling back to the state before it" in done.stderr
    assert "resuming at step" in done.stdout
    assert finished.read("dvc.lock") == undisturbed.read("dvc.lock")


def test_a_checkpoint_of_other_params_is_not_taken(finished: Project) -> None:
    finished.set_all(LONG)
    process = finished.start("python", "-m", "stages.train")
    wait_for(lambda: bool(checkpoints(finished)))
    kill_group(process)
    finished.set_all({"optimizers.muon.lr": 0.002, "train.epochs": 1})
    assert "resuming" not in finished.stage("train").stdout


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"path": Path("x")})  # pickled by class: nothing that a state needs
    with pytest.raises(Exception, match="weights_only"):
        checkpoint.load()


# --- what a doomed run gets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimizers.sgd.lr": 1e30}, "step"),
        ({"train.batch_size": 100_000}, "train.batch_size: 100000 is more than the 360 training images"),
        ({"compute.device": "mps"}, "compute.device: this machine has no usable mps; auto takes what there is"),
        ({"train.model": "cnn", "models.cnn.widths": [8] * 6}, "too small for the model cnn"),
    ],
)
def test_a_doomed_run_ends_in_one_line(finished: Project, change: dict[str, Any], says: str) -> None:
    finished.set_all(change)
    done = finished.stage("train", status=1)
    assert says in done.stderr
    assert done.stderr.startswith("train: error: ")
    assert done.stderr.count("\n") == 1
    assert not (finished.root / "models/classifier.safetensors").exists()


def test_a_class_without_training_rows_is_named(finished: Project) -> None:
    path = finished.root / "data/annotations.csv"
    rows = pd.read_csv(path)
    path.unlink()
    rows.loc[(rows["label"] == 4) & (rows["split"] == "train"), "split"] = "val"
    rows.to_csv(path, index=False)
    assert "no training row for the class Coat" in finished.stage("train", status=1).stderr


def test_your_own_images_fit_as_they_are(fresh: Project) -> None:
    """What the README says about one's own images: three files, two stages removed, the files added to DVC."""
    import yaml

    random = np.random.default_rng(0)
    lines = ["image,label,class_name,split,note"]
    with zipfile.ZipFile(fresh.root / "data/images.zip", "w") as archive:
        for number in range(90):
            label = number % 3
            pixels = random.integers(0, 80, (20, 24, 3), dtype=np.uint8)
            pixels[..., label] += 100
            with archive.open(f"photo {number}.bmp", "w") as file:
                Image.fromarray(pixels).save(file, "BMP")
            split = "test" if number >= 60 else "train"
            lines.append(f"photo {number}.bmp,{label},{['red', 'green', 'blue'][label]},{split},mine")
    (fresh.root / "data/annotations.csv").write_text("\n".join(lines) + "\n")
    declaration = yaml.safe_load((fresh.root / "dvc.yaml").read_text())
    del declaration["stages"]["download"], declaration["stages"]["annotate"]
    (fresh.root / "dvc.yaml").write_text(yaml.safe_dump(declaration, sort_keys=False))
    (fresh.root / "data/dataset_info.json").write_text('{"name": "My photographs", "license": "unknown"}')
    fresh.dvc("add", "data/images.zip", "data/annotations.csv", "data/dataset_info.json")
    fresh.set(train__batch_size=10)
    assert fresh.repro() == ["train", "evaluate", "export", "report"]
    assert json.loads(fresh.read("metrics/evaluate.json"))["accuracy"] == 1
    _, model_config = load(fresh.root / "models/classifier.safetensors")
    assert (model_config.channels, model_config.height, model_config.width, model_config.class_names) == (
        3,
        20,
        24,
        ["red", "green", "blue"],
    )


# --- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (32, 40))])
def test_models_fit_channels_sizes_and_classes(name: str, channels: int, size: tuple[int, int]) -> None:
    model = zoo.build_model(name, MODEL_ARGUMENTS[name], channels, size, 7)
    assert model(torch.zeros(2, channels, *size)).shape == (2, 7)


def test_the_tutorials_networks_have_the_tutorials_shapes() -> None:
    mlp = zoo.build_model("mlp", {"hidden": [512, 512]}, 1, (28, 28), 10)
    assert [tuple(p.shape) for p in mlp.parameters() if p.ndim == 2] == [(512, 784), (512, 512), (10, 512)]
    lenet = zoo.build_model("lenet", {}, 1, (28, 28), 10)
    assert [tuple(p.shape) for p in lenet.parameters() if p.ndim > 1] == [
        (6, 1, 5, 5), (16, 6, 5, 5), (120, 256), (84, 120), (10, 84),
    ]  # fmt: skip


def test_flip_mirrors_about_half_of_the_images() -> None:
    torch.manual_seed(0)
    images = torch.arange(6, dtype=torch.uint8).reshape(1, 1, 2, 3).repeat(1000, 1, 1, 1)
    flipped = hflip(images)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 400 < mirrored.sum() < 600


def test_shift_moves_each_image_by_its_own_draw() -> None:
    torch.manual_seed(0)
    images = torch.zeros(500, 2, 9, 7, dtype=torch.uint8)
    images[:, :, 4, 3] = 255
    moved = translate(images, 2)
    assert moved.shape == images.shape
    where = moved[:, 0].flatten(1).argmax(1)
    assert set(zip((where // 7 - 4).tolist(), (where % 7 - 3).tolist(), strict=True)) == set(
        itertools.product(range(-2, 3), repeat=2)
    )
    assert torch.equal(moved[:, 0], moved[:, 1])  # channels move together


def test_erase_blanks_one_square() -> None:
    torch.manual_seed(0)
    erased = cutout(torch.full((300, 1, 9, 9), 255, dtype=torch.uint8), 4) == 0
    assert set(erased.flatten(1).sum(1).tolist()) <= {4, 6, 8, 9, 12, 16}  # cut off at the edges
    assert (erased.flatten(1).sum(1) == 16).any()


def test_learning_rates_rise_and_fall_as_they_say() -> None:
    every = {"step_size": 3, "factor": 0.1}
    for name in ("constant", "step", "cosine", "linear"):
        rates = [Schedule(name, every, 0.2, 100, 10)(step) for step in range(100)]
        np.testing.assert_allclose(rates[:20], np.arange(1, 21) / 20)
        assert max(rates) == 1
        assert rates[-1] == {"constant": 1, "step": pytest.approx(0.001)}.get(name, pytest.approx(0.01, abs=0.012))
        assert Schedule(name, every, 0, 10, 10)(0) == pytest.approx(1, rel=0.1)
    # linear falls in a straight line, step in steps of three epochs
    falls = np.diff([Schedule("linear", {}, 0.2, 100, 10)(step) for step in range(20, 100)])
    np.testing.assert_allclose(falls, falls[0])
    steps = [Schedule("step", every, 0, 100, 10)(step) for step in (0, 29, 30, 59, 60)]
    np.testing.assert_allclose(steps, [1, 1, 0.1, 0.1, 0.01])


def test_weight_decay_spares_biases_and_normalisation() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    options = {"lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.5}
    decayed, spared = make_optimizer("sgd", options, model).param_groups
    assert (decayed["weight_decay"], [p.ndim for p in decayed["params"]]) == (0.5, [4])
    assert (spared["weight_decay"], [p.ndim for p in spared["params"]]) == (0, [1, 1, 1])


def test_muons_updates_are_orthogonal_and_only_for_filters() -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonal(torch.randn(8, 40)))
    assert 0.6 < singular.min() < singular.max() < 1.3
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 3))
    options = {"lr": 0.1, "momentum": 0.6, "sgd_lr": 0.2, "sgd_momentum": 0.9, "weight_decay": 5e-4}
    optimizer = make_optimizer("muon", options, model)
    shapes = [[tuple(p.shape) for p in group["params"] if p.ndim > 1] for group in optimizer.param_groups]
    assert shapes == [[(6, 4, 3, 3)], [(4, 1, 2, 2), (3, 6)], []]


def test_muons_other_half_is_torchs_sgd() -> None:
    torch.manual_seed(0)
    mine, theirs = nn.Linear(5, 4), nn.Linear(5, 4)
    theirs.load_state_dict(mine.state_dict())
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    optimizers = [
        Muon([{"params": list(mine.parameters()), **options}]),
        torch.optim.SGD(theirs.parameters(), nesterov=True, **options),
    ]
    for _ in range(5):
        batch = torch.randn(8, 5)
        for layer, optimizer in zip((mine, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            layer(batch).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(mine.weight, theirs.weight)


def test_derived_seeds_do_not_meet() -> None:
    keys = [(seed, use, n) for seed in range(20) for use in ("order", "step") for n in range(50)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
    assert derive_seed(0, "order", 1) == derive_seed(0, "order", 1)


def test_a_series_of_seeds_is_that_of_the_single_ones() -> None:
    series = itertools.islice(derive_seeds(0, "step", start=150), 250)
    assert list(series) == [derive_seed(0, "step", step) for step in range(150, 400)]


def test_normalised_training_pixels_have_mean_0_and_deviation_1(finished: Project) -> None:
    from classifier.dataset import AnnotatedImages

    _, model_config = load(finished.root / "models/classifier.safetensors")
    data = AnnotatedImages(finished.root / "data/annotations.csv", finished.root / "data/images.zip", split="train")
    values = Normalize(model_config)(data.all_images())
    assert values.mean().item() == pytest.approx(0, abs=1e-4)
    assert values.std().item() == pytest.approx(1, abs=1e-4)


def test_a_model_file_depends_on_its_content_alone(tmp_path: Path) -> None:
    model_config = ModelConfig("mlp", {"hidden": [4]}, ["a", "b"], 1, 3, 3, [0.5], [0.25], {})
    model = model_config.build()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / f"{name}.safetensors", model, model_config)
    assert (tmp_path / "first/first.safetensors").read_bytes() == (tmp_path / "second/second.safetensors").read_bytes()
    again, same_card = load(tmp_path / "first/first.safetensors")
    assert same_card == model_config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
