"""The training loop: one page, top to bottom. Interrupt it anywhere; the same call goes on to the same bytes.

The state of a run is a step counter, weights, optimizer, weight average, the best epoch and the curve so far. Data
order, learning rate and every random draw are functions of the seed and the step, so nothing else needs to be
remembered.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stages.lib.dataset import AnnotatedImages
from stages.lib.model.compute import seed_generators
from stages.lib.model.model_file import Normalise
from stages.lib.model.scoring import logits_by_batch
from stages.lib.runner.errors import StageError
from stages.lib.runner.stage import Run
from stages.lib.seeds import derive, derive_series
from stages.lib.train.augment import augment
from stages.lib.train.checkpoint import Checkpoint
from stages.lib.train.losses import Loss
from stages.lib.train.optimisation import Schedule
from stages.lib.train.processes import Team
from stages.lib.train.selection import Selection

if TYPE_CHECKING:
    from stages.lib.params import Train

Row = dict[str, float]
VALIDATION_BATCH = 1000  # images; the last bits of the loss depend on it, so it is no one's choice
DOOMED = 10  # times the loss of chance: fresh weights that start above it have seen inputs that nobody normalised


def fit(
    run: Run,
    model: nn.Module,  # on its device, with its first weights; trained in place
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    schedule: Schedule,  # of the learning rate, by step
    normalise: Normalise,  # uint8 pixels to network input, on the same device
    training: AnnotatedImages,
    validation: AnnotatedImages,  # may be empty, unless the recipe selects by it
    recipe: "Train",  # params.yaml: train
    checkpoint: Checkpoint,  # where an interrupted run goes on
    checkpoint_seconds: float,  # how much work a power cut may cost at most; 0 saves at every step
    evaluating: Sequence[nn.Module] = (),  # modules with frozen statistics: never in training mode
    on_epoch: Callable[[list[Row]], None] = lambda curve: None,  # is told the curve so far
    team: Team = Team(),  # noqa: B008 (it has no state): the processes that share the work
) -> tuple[nn.Module, list[Row]]:
    """Train for ``recipe.epochs``, or until the patience is at an end.

    Returns:
        The model to keep (average, best or last, as the recipe asks) in evaluation mode, and one row an epoch.

    Raises:
        Interrupted: a signal came; the state is safe.
        StageError: the loss is no longer finite, or is far too high at the start.
    """
    device = next(model.parameters()).device
    labels, targets, validation_targets = training.labels, training.targets(), validation.targets()
    steps, steps_per_epoch = schedule.steps, schedule.steps_per_epoch
    peaks = [group["lr"] for group in optimizer.param_groups]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    average = None
    if recipe.average_decay:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay), use_buffers=True)
    kept = average.module if average else model
    selection = Selection(recipe.keep, recipe.patience)
    autocast: Any = contextlib.nullcontext()
    if recipe.precision == "bf16":
        autocast = torch.autocast(device.type, dtype=torch.bfloat16)
    stateful: dict[str, Any] = {"model": model, "optimizer": optimizer, "selection": selection}
    if average:
        stateful["average"] = average

    step, loss_sum, correct = 0, 0.0, 0  # the two sums are of the epoch so far
    curve: list[Row] = []
    saved = team.from_first(checkpoint.load)
    if saved:
        step, loss_sum, correct, curve = (saved[key] for key in ("step", "loss_sum", "correct", "curve"))
        for name, part in stateful.items():
            part.load_state_dict(saved[name])
        run.say(f"resuming at step {step} of {steps}")

    network = team.wrapped(model)

    def save() -> None:
        if not run.leads:
            return
        states = {name: part.state_dict() for name, part in stateful.items()}
        checkpoint.save({"step": step, "curve": curve, "loss_sum": loss_sum, "correct": correct, **states})
        run.note_on_stop = f"step {step} of {steps} is saved; the same command goes on from there"

    def set_training_mode() -> None:
        model.train()
        for module in evaluating:
            module.eval()

    set_training_mode()
    progress = Progress(run, recipe.epochs, steps_per_epoch, done=step)
    saved_at = time.monotonic()
    plan = _plan(recipe, len(training), step, steps if not selection.exhausted else step, steps_per_epoch)
    seeds = derive_series(recipe.seed, "step", start=step)
    with run.uninterrupted():
        for (whole, pixels), seed in zip(training.batches(plan), seeds, strict=False):
            epoch, position = divmod(step, steps_per_epoch)
            seed_generators(seed)
            inputs = normalise(team.share(augment(pixels.to(device), recipe.augment)))
            batch = team.share(whole)
            team.part_ways(recipe.seed, "step", step)
            fraction = schedule(step)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = fraction * peak

            with autocast:
                outputs = network(inputs.contiguous(memory_format=torch.channels_last))
            batch_loss = loss.training(outputs.float(), targets.index_select(0, batch).to(device))
            team.weighted(batch_loss, len(batch), len(whole)).backward()
            if recipe.clip_norm:
                nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average:
                average.update_parameters(model)

            step += 1
            hits = (outputs.argmax(1).cpu() == labels.index_select(0, batch)).sum().item()
            batch_sum, batch_hits = team.total(batch_loss.item() * len(batch), hits)
            loss_sum += batch_sum
            correct += int(batch_hits)
            progress.step()
            _stop_if_doomed(batch_sum / len(whole), loss, step)

            epoch_ends = position + 1 == steps_per_epoch
            if epoch_ends:
                row = {"epoch": epoch + 1, "lr": fraction * peaks[0]}
                row |= {"train_loss": loss_sum / len(training), "train_accuracy": correct / len(training)}
                if len(validation):
                    batches = validation.in_order(VALIDATION_BATCH)
                    with autocast:
                        logits = torch.cat([*logits_by_batch(kept.eval(), normalise, batches, device)])
                    row["val_loss"] = loss.validation(logits.double(), validation_targets).item()
                    row["val_accuracy"] = (logits.argmax(1) == validation.labels).double().mean().item()
                    selection.watch(epoch + 1, row["val_loss"], kept)
                    set_training_mode()
                curve.append(row)
                loss_sum, correct = 0.0, 0
                progress.epoch(row)
                if run.leads:
                    on_epoch(curve)
            due = time.monotonic() >= saved_at + checkpoint_seconds
            stops = team.agree(run.must_stop() or selection.exhausted)
            if due or epoch_ends or stops:
                save()
                saved_at = time.monotonic()
            if stops:
                break
    if selection.exhausted:
        run.say(f"stopped after epoch {len(curve)}: no lower validation loss since epoch {selection.best_epoch}")
    selection.apply(kept)
    return kept.eval(), curve


def _plan(recipe: "Train", count: int, step: int, steps: int, steps_per_epoch: int) -> Iterator[torch.Tensor]:
    """The indices of the images of every batch, from a step on; the last batch of an epoch may be smaller."""
    order = torch.arange(count)
    for number in range(step, steps):
        epoch, position = divmod(number, steps_per_epoch)
        if recipe.shuffle and (position == 0 or number == step):
            order = torch.randperm(count, generator=torch.Generator().manual_seed(derive(recipe.seed, "order", epoch)))
        yield order[position * recipe.batch_size :][: recipe.batch_size]


def _stop_if_doomed(value: float, loss: Loss, step: int) -> None:
    if not math.isfinite(value):
        raise StageError(f"the loss is {value} at step {step}; a smaller optimizers.*.lr would help")
    if step == 1 and value > DOOMED * loss.of_chance:
        raise StageError(
            f"the loss is {value:.1f} at the start, where chance gives {loss.of_chance:.2f}: the first weights or the"
            " inputs are far off"
        )


class Progress:
    """What a person sees: a bar inside the epoch on a terminal, and a line an epoch."""

    def __init__(self, run: Run, epochs: int, steps_per_epoch: int, done: int):
        from tqdm import tqdm

        self.run, self.epochs, self.steps_per_epoch = run, epochs, steps_per_epoch
        self.bar = tqdm(
            total=epochs * steps_per_epoch, initial=done, unit="step", disable=None, leave=False, delay=2, desc="train"
        )
        self.done, self.since = 0, time.monotonic()

    def step(self) -> None:
        """One batch is done."""
        self.done += 1
        self.bar.update()

    def epoch(self, row: Row) -> None:
        """One epoch is done."""
        from tqdm import tqdm

        self.bar.clear()
        steps_left = self.epochs * self.steps_per_epoch - row["epoch"] * self.steps_per_epoch
        left = tqdm.format_interval((time.monotonic() - self.since) / self.done * steps_left)
        validation = f", validation {row['val_loss']:.4f}, {row['val_accuracy']:.2%}" if "val_loss" in row else ""
        self.run.say(
            f"epoch {row['epoch']:.0f}/{self.epochs}: loss {row['train_loss']:.4f}, "
            f"accuracy {row['train_accuracy']:.2%}{validation}" + (f", {left} left" if steps_left else "")
        )
