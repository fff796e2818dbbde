"""The training loop on an accelerator: no step waits for it, and to look at the losses seldom changes no number.

PyTorch's device "meta" has shapes and no values. So what would wait for a value of an accelerator fails on it.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from classifier.config import params_file
from classifier.config.variants import Losses
from classifier.data.dataset import load_splits
from classifier.errors import DivergedError
from classifier.model.compute import Backend, prepare, seed_generators
from classifier.model.serialization import ModelConfig, Normalize
from classifier.runner.signals import Interrupted, StopSignals
from classifier.train.checkpoint import Checkpoint
from classifier.train.gradient import make_gradient
from classifier.train.loop import FETCH_STEPS, Task, check_losses, fit, train_step
from classifier.train.losses import make_loss
from classifier.train.optim import OPTIMIZERS, Schedule, make_optimizer
from classifier.train.order import Order
from classifier.train.state import TrainState
from tests.project import PARAMS
from tests.unit.helpers import saved_step, write_annotated

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

TRAIN, VAL = 80, 20
SIZE = 12
CHANGES = {
    "train.model": "cnn",
    "compute.portable": False,
    "train.epochs": 4,
    "train.batch_size": 10,
    "train.ema_decay": 0.9,
    "train.clip_grad_norm": 1.0,
    "train.pruning.skip": 0.5,
    "train.augment.hflip": True,
    "train.augment.rotate_degrees": 5,
    "train.augment.cutout_pixels": 3,
    "models.cnn": {"stem": 4, "widths": [8, 8]},
}

pytestmark = pytest.mark.usefixtures("one_thread")


class Copies(TorchDispatchMode):
    """Notes every copy between devices: PyTorch waits until it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
        if "copy" in str(function) and len({tensor.device for tensor in tensors}) > 1:
            self.found.append(str(function))
        return result


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (TRAIN + VAL, SIZE, SIZE), np.uint8)
    splits = ["train"] * TRAIN + ["val"] * VAL
    rows = [f"{place:03}.png,{place % 10},{place % 10},{split}" for place, split in enumerate(splits)]
    folder = tmp_path_factory.mktemp("data")
    write_annotated(folder, rows, pixels)
    return folder


def start(data: Path, device: str = "cpu", fetch_steps: int = 0, **changes: Any) -> tuple[TrainState, Task]:
    """A run before its first step."""
    values = {f"train.{name}": value for name, value in changes.items()}
    plain = params_file.replaced(params_file.read(PARAMS)[1], {**CHANGES, **values})
    train = params_file.validate(plain).train
    backend = Backend(torch.device(device), 1, in_parts=False)
    options = plain["models"][train.model]
    about = ModelConfig(train.model, options, [*"0123456789"], 1, SIZE, SIZE, [0.5], [0.3], {})
    seed_generators(0)
    model = about.build().to(backend.device).to(memory_format=torch.channels_last)
    train_images, val_images = load_splits(data / "annotations.csv", data / "images", "train", "val")
    loss = make_loss(train.loss, plain["losses"][train.loss], 10)
    for split in (train_images, val_images):
        split.target_transform = loss.target_transform
        split.to(backend.device)
    order = Order(train, train_images, backend.device)
    schedule = Schedule(train.schedule, plain["schedules"][train.schedule], 0.2, order.first_steps)
    gradient = make_gradient(model, loss.training, train, backend)
    normalize = Normalize(about).to(backend.device)
    task = Task(train, loss, schedule, gradient, normalize, train_images, val_images, backend)
    task.fetch_steps = fetch_steps or task.fetch_steps
    optimizer = make_optimizer(train.optimizer, plain["optimizers"][train.optimizer], model)
    return TrainState.create(model, optimizer, order, train), task


def train(state: TrainState, task: Task, folder: Path, signals: StopSignals | None = None) -> None:
    context: Any = SimpleNamespace(signals=signals or StopSignals(), is_rank_zero=True, resume_hint="")
    fit(state, task, context=context, checkpoint=Checkpoint(folder))


def results(state: TrainState) -> tuple[Any, ...]:
    weights = {name: tensor.tolist() for name, tensor in state.eval_model.state_dict().items()}
    assert state.order.losses is not None
    return state.step, state.history, weights, state.order.losses.tolist()


@pytest.mark.parametrize(
    "change",
    [{"optimizer": name} for name in (*OPTIMIZERS, "muon")] + [{"loss": name} for name in Losses.model_fields],
    ids=lambda change: "-".join(change.values()),
)
def test_no_step_waits_for_an_accelerator(data: Path, change: dict[str, Any]) -> None:
    state, task = start(data, "meta", batch_size=20, **change)
    assert task.fetch_steps == FETCH_STEPS
    assert task.train_images.device.type == "meta"
    task.gradient.train_mode()
    losses, state.order.losses = state.order.losses, None
    batches = state.order.batches(0, last_step=4)
    first = next(batches)  # the order of the epoch is copied when it begins
    state.order.losses = losses
    with Copies() as copies:
        train_step(state, task, first)
        for batch in batches:
            train_step(state, task, batch)
    assert state.step == 4
    assert copies.found == []
    with pytest.raises(RuntimeError, match="meta"):
        check_losses(state, task)


def test_looking_at_the_losses_seldom_changes_no_number(data: Path, tmp_path: Path) -> None:
    found = []
    for fetch_steps in (1, 3, 100):
        state, task = start(data, fetch_steps=fetch_steps)
        train(state, task, tmp_path / str(fetch_steps))
        found.append(results(state))
    assert found[0] == found[1] == found[2]
    assert all(1 < row["train_loss"] < 9 and 0 < row["train_acc"] < 1 for row in state.history)


def test_a_stop_between_two_looks_is_saved_at_the_next_and_resumes_to_the_same_numbers(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, task = start(data)
    train(state, task, tmp_path / "undisturbed")
    expected = results(state)

    class StopAfter(StopSignals):
        def stop_requested(self) -> bool:
            self._pending = 15 if state.step >= 5 else 0
            return super().stop_requested()

        def raise_if_stop_requested(self) -> None:
            if self._pending:
                raise Interrupted(self._pending)

    state, task = start(data, fetch_steps=3)
    with pytest.raises(Interrupted):
        train(state, task, tmp_path / "stopped", StopAfter())
    assert state.step == saved_step(tmp_path / "stopped") == 6
    state, task = start(data, fetch_steps=3)
    with caplog.at_level("INFO"):
        train(state, task, tmp_path / "stopped")
    assert "resuming at step 6 of" in caplog.text
    assert results(state) == expected


def test_a_doomed_run_is_found_at_its_step_and_not_saved(data: Path, tmp_path: Path) -> None:
    state, task = start(data, fetch_steps=7)
    plain, steps = task.loss.training, iter(range(100))
    loss = lambda *args: plain(*args) * (1 if next(steps) < 11 else torch.inf)  # noqa: E731
    task.gradient = make_gradient(state.model, loss, task.config, task.backend)
    with pytest.raises(DivergedError, match="the loss is inf at step 12; "):
        train(state, task, tmp_path / "doomed")
    assert saved_step(tmp_path / "doomed") == 8  # the end of the first epoch


def test_images_that_do_not_fit_the_accelerator_stay_where_they_are(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task = start(data)
    for free, fits in ((9999, False), (10000, True)):
        moved: list[Any] = []
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        task.train_images.images = SimpleNamespace(nbytes=5000, to=moved.append)  # type: ignore[assignment]
        task.train_images.to(torch.device("cuda"))
        assert moved == [torch.device("cuda")] * fits


@pytest.mark.parametrize(("device", "mode"), [("cpu", "error"), ("cuda", "warn"), ("mps", "warn")])
def test_only_a_cpu_refuses_what_is_not_deterministic(device: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: True)
    modes: list[str] = []
    monkeypatch.setattr(torch, "set_deterministic_debug_mode", modes.append)
    config: Any = SimpleNamespace(device=device, portable=False)
    assert prepare(config, 1).device.type == device
    assert modes == [mode]
