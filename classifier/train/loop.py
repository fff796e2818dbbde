"""The training loop: one page, top to bottom. Interrupt it anywhere; the same call resumes to the same bytes."""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from classifier.dataset import AnnotatedImages
from classifier.errors import DivergedError, PausedError
from classifier.model.compute import Backend, seed_generators
from classifier.model.inference import predict_logits
from classifier.model.serialization import Normalize
from classifier.progress import progress_bar
from classifier.runner.context import StageContext
from classifier.seeds import derive_seeds
from classifier.train import distributed
from classifier.train.augment import augment
from classifier.train.checkpoint import Checkpoint
from classifier.train.epochs import Epochs
from classifier.train.losses import Loss
from classifier.train.optim import Schedule
from classifier.train.optimizer import Optimizer
from classifier.train.parallel import ParallelGradient
from classifier.train.state import Row, TrainState

if TYPE_CHECKING:
    from classifier.config import Runtime, Train

VALIDATION_BATCH_SIZE = 250  # images; the last bits of the loss depend on it, so it is not a param
FETCH_STEPS = 10  # between two looks at what an accelerator has computed; each look waits until it has caught up
MAX_INITIAL_LOSS_RATIO = 10  # to the chance loss: fresh weights that start above it got inputs that are not normalized

logger = logging.getLogger(__name__)


@dataclass
class Task:
    """What is trained, and how: all that does not change from step to step.

    Attributes:
        config: the section ``train`` of params.yaml.
        loss: for training and for validation.
        schedule: of the learning rate, by step.
        epochs: which images each has.
        normalize: uint8 pixels to network input, on the device of the model.
        train_images, val_images: the splits; there may be no validation images.
        eval_modules: modules with frozen statistics, which stay in evaluation mode.
        backend: where and how the model computes.
        fetch_steps: how many steps are queued before losses are looked at, signals obeyed and checkpoints written.
    """

    config: "Train"
    loss: Loss
    schedule: Schedule
    epochs: Epochs
    normalize: Normalize
    train_images: AnnotatedImages
    val_images: AnnotatedImages
    eval_modules: Sequence[nn.Module]
    backend: Backend

    def __post_init__(self) -> None:
        self.train_labels = self.train_images.labels.to(self.device)
        self.train_targets, self.val_targets = self.train_images.targets().to(self.device), self.val_images.targets()
        self.fetch_steps = 1 if self.device.type == "cpu" else FETCH_STEPS
        self.autocast: Any = contextlib.nullcontext()
        if self.config.precision == "bf16":
            self.autocast = torch.autocast(self.device.type, dtype=torch.bfloat16)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.backend.device


def fit(
    state: TrainState,
    task: Task,
    *,
    context: StageContext,
    checkpoint: Checkpoint,
    runtime: "Runtime",
    on_epoch: Callable[[list[Row]], None] = lambda history: None,
) -> nn.Module:
    """Train for ``config.epochs``, or until early stopping.

    Args:
        state: before the first step; if the checkpoint has a state, that one is loaded into it.
        task: what to train.
        context: says when to stop, and holds signals back.
        checkpoint: where an interrupted run goes on.
        runtime: the section ``runtime`` of params.yaml: when to save, and where to stop.
        on_epoch: called on rank 0 after each epoch with the history so far.

    Returns:
        The model to keep (moving average, best or last, as configured), in evaluation mode.

    Raises:
        Interrupted: a signal came; the state is saved.
        DivergedError: the loss is no longer finite, or is far too high at the start.
        PausedError: ``runtime.stop_after_epoch`` is reached; the state is saved.
    """
    config, schedule = task.config, task.schedule
    base_lrs = [group["lr"] for group in state.optimizer.param_groups]
    saved = distributed.broadcast_object(task.device, checkpoint.load)
    if saved:
        state.load_state_dict(saved)
        if state.losses is not None:
            state.losses = state.losses.to(task.device)
        logger.info(f"resuming at step {state.step} of {schedule.total_steps}")
    stepper = Stepper(state, task)

    def save() -> None:
        if context.is_rank_zero:
            checkpoint.save(state.state_dict())
            context.resume_hint = (
                f"step {state.step} of {schedule.total_steps} is saved; the same command goes on from there"
            )

    stepper.set_train_mode()
    if task.epochs.needs_losses and state.losses is None:
        state.losses = torch.full((len(task.train_images),), math.inf, device=task.device)
    last_step = state.step if state.early_stopping.should_stop else schedule.total_steps
    if runtime.stop_after_epoch:
        last_step = min(last_step, schedule.first_steps[min(runtime.stop_after_epoch, config.epochs)])
    seeds = derive_seeds(config.seed, "step", start=state.step)
    progress = Progress(schedule.total_steps, config.epochs, state.step)
    saved_at = time.monotonic()
    with context.signals.deferred():
        for batch, seed in zip(iter_batches(state, task, last_step), seeds, strict=False):
            lr_factor = schedule(state.step)
            for group, base_lr in zip(state.optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = lr_factor * base_lr
            stepper.step(batch, seed)
            progress.step()
            epoch = len(state.history) + 1
            ended = state.step == schedule.first_steps[epoch]
            if not ended and state.step % task.fetch_steps:
                continue
            stepper.fetch()
            if ended:
                row = {"epoch": epoch, "lr": lr_factor * base_lrs[0], **train_metrics(state, task)}
                if len(task.val_images):
                    row |= validate(state, task)
                    state.early_stopping.update(epoch, row["val_loss"], state.eval_model)
                    stepper.set_train_mode()
                state.end_epoch(row)
                progress.end_epoch(row)
                if context.is_rank_zero:
                    on_epoch(state.history)

            due = time.monotonic() >= saved_at + runtime.checkpoint_seconds
            stop = context.signals.stop_requested() or state.early_stopping.should_stop
            stop = distributed.broadcast_bool(task.device, stop)
            if due or stop or ended:
                save()
                saved_at = time.monotonic()
            if stop:
                break
    if state.early_stopping.should_stop:
        logger.info(
            f"stopped early after epoch {len(state.history)}: "
            f"no lower validation loss since epoch {state.early_stopping.best_epoch}"
        )
    elif runtime.stop_after_epoch and len(state.history) >= runtime.stop_after_epoch:
        raise PausedError(f"stopped after epoch {len(state.history)}, as runtime.stop_after_epoch says; it is saved")
    state.early_stopping.restore_best(state.eval_model)
    return state.eval_model.eval()


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    All on the device of the model, if the images fit there; else the pixels come from the CPU.

    Attributes:
        indices: of the images in the training split, ``(N,) int64``.
        pixels: the images, ``(N, C, H, W) uint8``.
        weights: of their losses, ``(N,) float32``.
    """

    indices: torch.Tensor
    pixels: torch.Tensor
    weights: torch.Tensor


def iter_batches(state: TrainState, task: Task, last_step: int) -> Iterator[Batch]:
    """The batches from the step of the state to before ``last_step``; an epoch is drawn when it begins."""
    size, first_steps = task.config.batch_size, task.epochs.first_steps
    for epoch in range(len(state.history), task.config.epochs):
        if state.step >= last_step:
            return
        if state.step == first_steps[epoch] and state.losses is not None:
            state.epoch_losses = state.losses.to("cpu", copy=True)
        drawn, position = task.epochs.draw(epoch, state.epoch_losses), state.step - first_steps[epoch]
        order, weights = drawn.indices.to(task.device), drawn.weights.to(task.device)
        batches = task.train_images.batches(drawn.indices.to(task.train_images.device).split(size)[position:])
        parts = zip(batches, order.split(size)[position:], weights.split(size)[position:], strict=True)
        for (_, pixels), indices, some_weights in parts:
            yield Batch(indices, pixels, some_weights)


class Stepper:
    """One step of the optimizer at a time. A step waits for nothing that an accelerator computes; ``fetch`` does.

    Args:
        state: whose model, optimizer and moving average are updated.
        task: what to train.
    """

    def __init__(self, state: TrainState, task: Task):
        self._state, self._task = state, task
        self._pending: list[tuple[int, torch.Tensor]] = []  # size of the batch, and its two sums
        self._network = distributed.setup_module(state.model)
        self._parallel = None
        if task.backend.portable:
            self._parallel = ParallelGradient(state.model, task.config.batch_size, task.backend.threads)
            if isinstance(state.optimizer, Optimizer):
                state.optimizer.use_threads(task.backend.threads)

    def set_train_mode(self) -> None:
        """Training mode, less the frozen modules."""
        self._state.model.train()
        for module in self._task.eval_modules:
            module.eval()
        if self._parallel:
            self._parallel.set_mode()

    def step(self, batch: Batch, seed: int) -> None:
        """Train on one batch.

        Args:
            batch: of all processes.
            seed: of every random draw in the step.
        """
        state, task = self._state, self._task
        seed_generators(seed)
        pixels = augment(task.backend.send(batch.pixels), task.config.augment)
        inputs = task.normalize(distributed.shard(pixels))
        mine, total = distributed.shard(batch.indices), len(batch.indices)
        targets, weights = task.train_targets.index_select(0, mine), distributed.shard(batch.weights)
        distributed.seed_by_rank(task.config.seed, "step", state.step)

        if self._parallel:
            losses, outputs = self._parallel(inputs, targets, weights, task.loss.training)
        else:
            losses, outputs = self._whole_batch(inputs, targets, weights, total)
        if task.config.clip_grad_norm:
            parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, task.config.clip_grad_norm)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.update_ema()

        if state.losses is not None:
            state.losses[batch.indices] = distributed.gather(losses, total)
        correct = outputs.argmax(1) == task.train_labels.index_select(0, mine)
        self._pending.append((total, torch.stack([(losses * weights).sum(), (correct * weights).sum()])))
        state.step += 1

    def fetch(self) -> None:
        """Add the losses and correct predictions of the steps since the last call to the state, by their weights.

        Raises:
            DivergedError: as ``check_loss``, of the first step that it finds.
        """
        state, pending = self._state, self._pending
        self._pending = []
        mine = torch.stack([sums for _, sums in pending]).flatten().tolist()
        sums = distributed.all_reduce_sum(self._task.device, *mine)
        first = state.step - len(pending) + 1
        for step, (total, _), loss_sum, correct_sum in zip(itertools.count(first), pending, sums[::2], sums[1::2]):
            check_loss(loss_sum / total, self._task.loss, step)
            state.add(loss_sum, correct_sum)

    def _whole_batch(
        self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, total: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Set the gradients; PyTorch's threads share each operation, and the processes share the batch of ``total``."""
        with self._task.autocast:
            outputs = self._network(inputs.contiguous(memory_format=torch.channels_last))
        losses = self._task.loss.training(outputs.float(), targets)
        distributed.scale_loss((losses * weights).sum() / len(inputs), len(inputs), total).backward()
        return losses.detach(), outputs.detach()


def train_metrics(state: TrainState, task: Task) -> Row:
    """Loss and accuracy over the training images of the epoch, as they were augmented.

    Easy images that were left out are represented by those that counted more.
    """
    count = len(task.train_images)
    return {"train_loss": state.loss_sum / count, "train_acc": state.correct_sum / count}


def validate(state: TrainState, task: Task) -> Row:
    """Loss and accuracy of the model to keep on the validation images. It is left in evaluation mode."""
    batches = task.val_images.iter_batches(VALIDATION_BATCH_SIZE)
    with task.autocast:
        logits = torch.cat([*predict_logits(state.eval_model.eval(), task.normalize, batches, task.backend)]).cpu()
    return {
        "val_loss": task.loss.validation(logits.double(), task.val_targets).mean().item(),
        "val_acc": (logits.argmax(1) == task.val_images.labels).double().mean().item(),
    }


def check_loss(value: float, loss: Loss, step: int) -> None:
    """Stop a run that cannot end well.

    Raises:
        DivergedError: the loss is not finite, or far above that of chance at the first step.
    """
    if not math.isfinite(value):
        raise DivergedError(f"the loss is {value} at step {step}; a smaller optimizers.*.lr would help")
    if step == 1 and value > MAX_INITIAL_LOSS_RATIO * loss.chance_loss:
        raise DivergedError(
            f"the loss is {value:.1f} at the start, where chance gives {loss.chance_loss:.2f}: the initial weights or"
            " the inputs are far off"
        )


class Progress:
    """A bar inside the epoch on a terminal, and a line an epoch."""

    def __init__(self, total_steps: int, epochs: int, done: int):
        self.epochs, self.steps_left = epochs, total_steps - done
        self.bar = progress_bar(description="train", total=total_steps, initial=done, unit="step")
        self.done, self.since = 0, time.monotonic()

    def step(self) -> None:
        """One batch is done."""
        self.done += 1
        self.steps_left -= 1
        self.bar.update()

    def end_epoch(self, row: Row) -> None:
        """One epoch is done."""
        self.bar.clear()
        left = self.bar.format_interval((time.monotonic() - self.since) / self.done * self.steps_left)
        validation = ""
        if "val_loss" in row:
            validation = f", validation loss {row['val_loss']:.4f}, accuracy {row['val_acc']:.2%}"
        logger.info(
            f"epoch {row['epoch']:.0f}/{self.epochs}: loss {row['train_loss']:.4f}, accuracy {row['train_acc']:.2%}"
            f"{validation}{f', {left} left' if self.steps_left else ''}"
        )
