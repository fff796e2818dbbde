"""The training loop: one page, top to bottom. Interrupt it anywhere; the same call resumes to the same bytes."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from classifier.config.schema import Train
from classifier.data.dataset import AnnotatedImages
from classifier.errors import DivergedError, PausedError
from classifier.model.compute import Backend, seed_generators
from classifier.model.inference import predict_logits
from classifier.model.serialization import Normalize
from classifier.progress import progress_bar
from classifier.runner.context import StageContext
from classifier.train import distributed
from classifier.train.augment import augment
from classifier.train.checkpoint import Checkpoint
from classifier.train.gradient import Gradient, autocast
from classifier.train.losses import Loss
from classifier.train.meter import Row
from classifier.train.optim import Schedule
from classifier.train.order import Batch
from classifier.train.state import TrainState

import torch
from torch import nn

VALIDATION_BATCH_SIZE = 250  # images; the last bits of the loss depend on it, so it is not a param
FETCH_STEPS = 10  # between two looks at what an accelerator has computed; each look waits until it has caught up
MAX_INITIAL_LOSS_RATIO = 10  # to the chance loss: fresh weights that start above it got inputs that are not normalized
ADVICE = "a smaller optimizers.*.lr would help"

logger = logging.getLogger(__name__)


@dataclass
class Task:
    """A training's fixed part: all that does not change from step to step.

    Attributes:
        config: the section ``train`` of params.yaml.
        loss: for training and for validation.
        schedule: of the learning rate, by step.
        gradient: of a batch.
        normalize: uint8 pixels to network input, on the device of the model.
        train_images, val_images: the splits; there may be no validation images.
        backend: where and how the model computes.
        fetch_steps: steps that are queued before losses are looked at, signals obeyed and checkpoints written.
    """

    config: Train
    loss: Loss
    schedule: Schedule
    gradient: Gradient
    normalize: Normalize
    train_images: AnnotatedImages
    val_images: AnnotatedImages
    backend: Backend

    def __post_init__(self) -> None:
        self.train_labels = self.train_images.labels.to(self.device)
        self.train_targets, self.val_targets = self.train_images.targets().to(self.device), self.val_images.targets()
        self.fetch_steps = 1 if self.device.type == "cpu" else FETCH_STEPS

    @property
    def device(self) -> torch.device:
        return self.backend.device


def fit(
    state: TrainState,
    task: Task,
    *,
    context: StageContext,
    checkpoint: Checkpoint,
    stop_after_epoch: int = 0,
    on_epoch: Callable[[list[Row]], None] = lambda history: None,
) -> nn.Module:
    """Train for ``config.epochs``, or until early stopping; from the checkpoint, if it has a state.

    ``on_epoch`` is called on rank 0 after each epoch with the history so far. Returns the model to keep (moving
    average, best or last, as configured), in evaluation mode.

    Raises:
        Interrupted: a signal came; the state is saved.
        DivergedError: the loss is no longer finite, or is far too high at the start.
        PausedError: ``stop_after_epoch`` is reached; the state is saved.
    """
    if saved := distributed.broadcast_object(task.device, checkpoint.load):
        state.load_state_dict(saved)
        logger.info(f"resuming at step {state.step} of {task.schedule.total_steps}")
    progress = Progress(task, state.step)
    task.gradient.train_mode()
    with context.signals.deferred():
        for batch in state.order.batches(state.step, last_step(state, task, stop_after_epoch)):
            task.schedule.set_lr(state.optimizer, state.step)
            train_step(state, task, batch)
            progress.step()
            ended = state.order.ends_epoch(state.step)
            if not ended and state.step % task.fetch_steps:
                continue
            check_losses(state, task)
            if ended:
                end_epoch(state, task)
                progress.end_epoch(state.history[-1])
                if context.is_rank_zero:
                    on_epoch(state.history)
            stop = context.signals.stop_requested() or state.early_stopping.should_stop
            stop = distributed.broadcast_bool(task.device, stop)
            if (ended or stop or checkpoint.due()) and context.is_rank_zero:
                checkpoint.save(state.state_dict())
                context.resume_hint = (
                    f"step {state.step} of {task.schedule.total_steps} is saved; the same command goes on from there"
                )
            if stop:
                break
    return finish(state, stop_after_epoch)


def last_step(state: TrainState, task: Task, stop_after_epoch: int) -> int:
    """The number of steps to train: all, or those until ``runtime.stop_after_epoch``."""
    if state.early_stopping.should_stop:
        return state.step
    return task.schedule.first_steps[min(stop_after_epoch or task.config.epochs, task.config.epochs)]


def train_step(state: TrainState, task: Task, batch: Batch) -> None:
    """Train on one batch. It waits for nothing that an accelerator computes; ``check_losses`` does."""
    seed_generators(batch.seed)
    pixels = augment(task.backend.send(batch.pixels), task.config.augment)
    targets, labels = (whole.index_select(0, batch.indices) for whole in (task.train_targets, task.train_labels))
    total = len(batch.indices)
    pixels, targets, labels, weights = distributed.shard(batch.seed, pixels, targets, labels, batch.weights)
    losses, outputs = task.gradient(task.normalize(pixels), targets, weights, total)
    state.apply_gradients(task.config.clip_grad_norm)
    state.order.record(batch.indices, losses)
    state.meter.add(losses, outputs.argmax(1) == labels, weights, total)


def check_losses(state: TrainState, task: Task) -> None:
    """Stop a run that cannot end well.

    Raises:
        DivergedError: a loss since the last call is not finite, or far above that of chance at the first step.
    """
    losses, chance = state.meter.fetch(task.device), task.loss.chance_loss
    for step, value in enumerate(losses, state.step - len(losses) + 1):
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {step}; {ADVICE}")
        if step == 1 and value > MAX_INITIAL_LOSS_RATIO * chance:
            raise DivergedError(
                f"the loss is {value:.1f} at the start, where chance gives {chance:.2f}: the initial weights or"
                " the inputs are far off"
            )


def end_epoch(state: TrainState, task: Task) -> None:
    """Validate, and add a row to the history.

    Raises:
        DivergedError: the validation loss is not finite.
    """
    epoch, lr = len(state.history) + 1, state.optimizer.param_groups[0]["lr"]
    row = {"epoch": epoch, "lr": lr, **state.meter.end_epoch(len(task.train_images))}
    if len(task.val_images):
        row |= validate(state, task)
        if not math.isfinite(row["val_loss"]):
            raise DivergedError(f"the validation loss is {row['val_loss']} after epoch {epoch}; {ADVICE}")
        state.early_stopping.update(epoch, row["val_loss"], state.eval_model)
        task.gradient.train_mode()
    state.history.append(row)


def validate(state: TrainState, task: Task) -> Row:
    """Loss and accuracy of the model to keep on the validation images. It is left in evaluation mode."""
    batches = task.val_images.iter_batches(VALIDATION_BATCH_SIZE)
    with autocast(task.config.precision, task.device):
        logits = torch.cat([*predict_logits(state.eval_model.eval(), task.normalize, batches, task.backend)]).cpu()
    return {
        "val_loss": task.loss.validation(logits.double(), task.val_targets).mean().item(),
        "val_acc": (logits.argmax(1) == task.val_images.labels).double().mean().item(),
    }


def finish(state: TrainState, stop_after_epoch: int) -> nn.Module:
    """The model to keep, in evaluation mode.

    Raises:
        PausedError: ``stop_after_epoch`` is reached.
        DivergedError: a weight is not finite, after the last step.
    """
    if state.early_stopping.should_stop:
        logger.info(
            f"stopped early after epoch {len(state.history)}: "
            f"no lower validation loss since epoch {state.early_stopping.best_epoch}"
        )
    elif stop_after_epoch and len(state.history) >= stop_after_epoch:
        raise PausedError(
            f"stopped after epoch {len(state.history)}, as runtime.stop_after_epoch says; it is saved", state.history
        )
    state.early_stopping.restore_best(state.eval_model)
    if not all(parameter.isfinite().all() for parameter in state.eval_model.parameters()):
        raise DivergedError(f"a weight is not finite after the last step; {ADVICE}")
    return state.eval_model.eval()


class Progress:
    """A bar inside the epoch on a terminal, and a line an epoch."""

    def __init__(self, task: Task, done: int):
        total = task.schedule.total_steps
        self.epochs, self.steps_left = task.config.epochs, total - done
        self.bar = progress_bar(description="train", total=total, initial=done, unit="step")
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
