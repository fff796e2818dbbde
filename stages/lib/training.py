"""The training loop: one page, top to bottom. Interrupt it anywhere; the same call goes on to the same bytes.

The state of a run is a step counter, weights, optimizer, weight average and the curve so far. Data order, learning
rate and every random draw are functions of the seed and the step, so nothing else needs to be remembered.
"""

import contextlib
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stages.lib.augment import augment
from stages.lib.checkpoint import Checkpoint
from stages.lib.compute import seed_everything
from stages.lib.dataset import AnnotatedImages
from stages.lib.errors import StageError
from stages.lib.model_file import Normalise
from stages.lib.optimisation import learning_rate
from stages.lib.scoring import logits_by_batch, loss_and_accuracy
from stages.lib.seeds import derive
from stages.lib.stage import Run

if TYPE_CHECKING:
    from stages.lib.params import Train

Row = dict[str, float]
VALIDATION_BATCH = 1000  # images; the last bits of the loss depend on it, so it is no one's choice


def fit(
    run: Run,
    model: nn.Module,  # on its device, with fresh weights; trained in place
    optimizer: torch.optim.Optimizer,
    normalise: Normalise,  # uint8 pixels to network input, on the same device
    training: AnnotatedImages,
    validation: AnnotatedImages,  # may be empty
    recipe: "Train",  # params.yaml: train
    checkpoint: Checkpoint,  # where an interrupted run goes on
    checkpoint_seconds: float,  # how much work a power cut may cost at most; 0 saves at every step
) -> tuple[nn.Module, list[Row]]:
    """Train for ``recipe.epochs``.

    Returns:
        The model to keep (the weight average, if the recipe asks for one) and one row an epoch.

    Raises:
        Interrupted: a signal came; the state is safe.
        StageError: the loss is no longer finite, or the batch does not fit the data.
    """
    images, labels = training.images, training.labels
    device = next(model.parameters()).device
    if len(images) < recipe.batch_size:
        raise StageError(f"train.batch_size: {recipe.batch_size} is more than the {len(images):,} training images")
    steps_per_epoch = -(-len(images) // recipe.batch_size)  # the last batch may be smaller
    steps = recipe.epochs * steps_per_epoch
    peaks = [group["lr"] for group in optimizer.param_groups]
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    ema = get_ema_multi_avg_fn(recipe.average_decay)
    average = AveragedModel(model, multi_avg_fn=ema, use_buffers=True)
    kept = average.module if recipe.average_decay else model
    autocast: Any = contextlib.nullcontext()
    if recipe.precision == "bf16":
        autocast = torch.autocast(device.type, dtype=torch.bfloat16)

    step, loss_sum, correct = 0, 0.0, 0  # the two sums are of the epoch so far
    curve: list[Row] = []
    saved = checkpoint.load()
    if saved:
        step, loss_sum, correct = saved["step"], saved["loss_sum"], saved["correct"]
        curve = saved["curve"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average.load_state_dict(saved["average"])
        run.say(f"resuming at step {step} of {steps}")

    def save() -> None:
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state_dict()}
        checkpoint.save({"step": step, "curve": curve, "loss_sum": loss_sum, "correct": correct, **states})
        run.note_on_stop = f"step {step} of {steps} is saved; the same command goes on from there"

    progress = Progress(run, recipe.epochs, steps_per_epoch, done=step)
    saved_at = time.monotonic()
    order = _order(recipe, step // steps_per_epoch, len(images))
    with run.uninterrupted():
        while step < steps:
            epoch, position = divmod(step, steps_per_epoch)
            seed_everything(derive(recipe.seed, "step", step))
            batch = order[position * recipe.batch_size :][: recipe.batch_size]
            pixels, targets = images[batch].to(device), labels[batch].to(device)
            inputs = normalise(augment(pixels, recipe.augment)).contiguous(memory_format=torch.channels_last)
            fraction = learning_rate(recipe.schedule, recipe.warmup_fraction, step, steps)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = fraction * peak

            model.train()
            with autocast:
                outputs = model(inputs)
            loss = criterion(outputs.float(), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if recipe.average_decay:
                average.update_parameters(model)

            step += 1
            loss_sum += loss.item() * len(batch)
            correct += int((outputs.argmax(1) == targets).sum())
            progress.step(loss.item())
            if not torch.isfinite(loss):
                raise StageError(f"the loss is {loss.item()} at step {step}; a smaller optimizers.*.lr would help")

            if position + 1 == steps_per_epoch:
                row = {"epoch": epoch + 1, "lr": fraction * peaks[0]}
                row |= {"train_loss": loss_sum / len(images), "train_accuracy": correct / len(images)}
                if len(validation):
                    batches = logits_by_batch(kept.eval(), normalise, validation.images, VALIDATION_BATCH, device)
                    row["val_loss"], row["val_accuracy"] = loss_and_accuracy(torch.cat([*batches]), validation.labels)
                curve.append(row)
                progress.epoch(row)
                loss_sum, correct = 0.0, 0
                if step < steps:
                    order = _order(recipe, epoch + 1, len(images))
            due = time.monotonic() >= saved_at + checkpoint_seconds
            if due or position + 1 == steps_per_epoch or run.must_stop():
                save()
                saved_at = time.monotonic()
                if run.must_stop():
                    break
    return kept.eval(), curve


def _order(recipe: "Train", epoch: int, count: int) -> torch.Tensor:
    """The order of the images in one epoch."""
    if not recipe.shuffle:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive(recipe.seed, "order", epoch)))


class Progress:
    """What a person sees: a bar inside the epoch on a terminal, and a line an epoch."""

    def __init__(self, run: Run, epochs: int, steps_per_epoch: int, done: int):
        from tqdm import tqdm

        self.run, self.epochs = run, epochs
        self.bar = tqdm(
            total=epochs * steps_per_epoch, initial=done, unit="step", disable=None, leave=False, delay=2, desc="train"
        )

    def step(self, loss: float) -> None:
        """One batch is done."""
        self.bar.update()

    def epoch(self, row: Row) -> None:
        """One epoch is done."""
        self.bar.clear()
        validation = f", validation {row['val_loss']:.4f}, {row['val_accuracy']:.2%}" if "val_loss" in row else ""
        self.run.say(
            f"epoch {row['epoch']:.0f}/{self.epochs}: loss {row['train_loss']:.4f}, "
            f"accuracy {row['train_accuracy']:.2%}{validation}"
        )
