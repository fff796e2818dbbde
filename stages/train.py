"""Train the classifier that params.yaml describes on the annotated images.

reads   data/images.zip, data/annotations.csv, a file of models/pretrained/ for a warm start; params.yaml: train,
        compute, the chosen model, loss, optimizer and schedule
writes  models/classifier.safetensors, metrics/train.json, metrics/train/curves.csv (anew at every epoch);
        untracked: models/environment.json, logs/ for TensorBoard
run     dvc repro train, or: python -m stages.train
expect  a line an epoch; see the README for accuracy and time of the default recipe

Stop it with Ctrl-C, or pull the plug: the same command goes on where it was, to the same bytes.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as `python stages/train.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib.runner import files
from stages.lib.runner.errors import StageError
from stages.lib.runner.stage import SCRATCH, Run, run_stage
from stages.lib.train import processes

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from stages.lib.dataset import AnnotatedImages
    from stages.lib.model.model_file import ModelCard, Normalise
    from stages.lib.params import Train
    from stages.lib.train.processes import Team
    from stages.lib.train.training import Row

ENVIRONMENT = Path("models/environment.json")
CURVES = "metrics/train/curves.csv"


def main(run: Run) -> None:
    """Train, in as many processes as the params say."""
    with processes.together(run, run.param("train").processes) as team:
        train(run, team)


def train(run: Run, team: "Team") -> None:
    """Load, build, fit, write."""
    import torch

    from stages.lib.dataset import load_splits
    from stages.lib.model import compute, model_file
    from stages.lib.train import warm_start
    from stages.lib.train.checkpoint import Checkpoint
    from stages.lib.train.losses import make_loss
    from stages.lib.train.optimisation import Schedule, make_optimizer
    from stages.lib.train.training import fit

    recipe, runtime = run.param("train"), run.setting("runtime")
    device = team.place(compute.prepare(run.param("compute")))
    environment = compute.environment(device)
    tell_difference(run, environment)

    training, validation = load_splits(
        run.dep("data/annotations.csv"),
        run.dep("data/images.zip"),
        "train",
        optional="val",
        memory_mb=runtime.image_memory_mb,
        threads=runtime.reader_threads,
    )
    refuse_what_cannot_work(recipe, training, validation)
    loss = make_loss(recipe.loss, run.param(f"losses.{recipe.loss}").model_dump(), len(training.class_names))
    training.target_transform = validation.target_transform = loss.target_transform

    card = describe_model(run, training)
    model = first_model(run, team, card, len(training))
    evaluating = warm_start.freeze(model, recipe.freeze)
    tell_layers(run, team, model, card, len(training), device)
    model = model.to(device).to(memory_format=torch.channels_last)
    normalise = model_file.Normalise(card).to(device)
    steps_per_epoch = -(-len(training) // recipe.batch_size)  # the last batch may be smaller
    schedule = run.param(f"schedules.{recipe.schedule}").model_dump()

    fingerprint = run.fingerprint(environment=environment)
    team.meet(fingerprint)
    checkpoint = Checkpoint(SCRATCH / f"train-{fingerprint}")
    kept, curve = fit(
        run,
        model,
        make_optimizer(recipe.optimizer, run.param(f"optimizers.{recipe.optimizer}").model_dump(), model),
        loss,
        Schedule(recipe.schedule, schedule, recipe.warmup_fraction, recipe.epochs * steps_per_epoch, steps_per_epoch),
        normalise,
        training,
        validation,
        recipe,
        checkpoint,
        runtime.checkpoint_seconds,
        evaluating,
        teller_of_epochs(run, model, card, fingerprint),
        team,
    )
    if run.leads:
        card = dataclasses.replace(card, temperature=temperature(kept, normalise, validation, device))
        write(run, kept, card, curve, environment)
        run.on_success(checkpoint.remove)


def describe_model(run: Run, training: "AnnotatedImages") -> "ModelCard":
    """What travels with the weights, less the temperature, which is known in the end."""
    from stages.lib import images
    from stages.lib.model.model_file import ModelCard

    recipe = run.param("train")
    mean, std = [0.0] * training.shape[0], [1.0] * training.shape[0]
    if recipe.standardise:
        mean, std = images.mean_and_std(batch.numpy() for batch in training.in_order(1000))
    arguments = run.param(f"models.{recipe.model}").model_dump()
    return ModelCard(recipe.model, arguments, training.class_names, *training.shape, mean, std, run.params())


def first_model(run: Run, team: "Team", card: "ModelCard", images: int) -> "nn.Module":
    """The model with its first weights, fresh ones or those of the warm start.

    Raises:
        StageError: the params make no model for these images, or leave a last batch on which it cannot train.
    """
    from stages.lib.model import compute, models
    from stages.lib.seeds import derive

    recipe = run.param("train")
    compute.seed_generators(derive(recipe.seed, "init"))
    try:
        model = card.build()
    except ValueError as error:
        raise StageError(str(error)) from None
    last_batch = images % recipe.batch_size or recipe.batch_size
    shared = f" for {team.size} processes" if team.size > 1 else ""
    if last_batch < team.size:
        raise StageError(f"train.batch_size: leaves a last batch of {last_batch}{shared}; each needs an image")
    if not models.takes_batch(model, card.shape, last_batch // team.size):
        few = f"a last batch of {last_batch}{shared}, too few for batch normalisation"
        raise StageError(f"train.batch_size: leaves {few}")
    model = team.synchronised(model)
    start_from(run, model, run.dep(f"models/pretrained/{recipe.warm_start}"))
    return model


def teller_of_epochs(
    run: Run, model: "nn.Module", card: "ModelCard", fingerprint: str
) -> "Callable[[list[Row]], None]":
    """What `fit` calls after each epoch with the curve so far: rewrites it, and TensorBoard's files on request."""
    events = None
    if run.setting("runtime").tensorboard and run.leads:
        from stages.lib.train.tensorboard import Events

        recipe = run.param("train")
        events = Events(f"{recipe.model}-{recipe.optimizer}-{recipe.seed}-{fingerprint}", model, card.shape)

    def tell(curve: "list[Row]") -> None:
        write_curve(run, curve)
        run.show(CURVES)
        if events:
            events.update(curve)

    return tell


def temperature(
    model: "nn.Module", normalise: "Normalise", validation: "AnnotatedImages", device: "torch.device"
) -> float:
    """What the logits must be divided by for probabilities that can be believed; 1 without validation rows."""
    import torch

    from stages.lib.model.scoring import logits_by_batch
    from stages.lib.train import calibration
    from stages.lib.train.training import VALIDATION_BATCH

    if not len(validation):
        return 1.0
    batches = validation.in_order(VALIDATION_BATCH)
    logits = torch.cat([*logits_by_batch(model, normalise, batches, device)])
    return calibration.fit_temperature(logits, validation.labels)


def write(
    run: Run, model: "nn.Module", card: "ModelCard", curve: "list[Row]", environment: dict[str, str | int]
) -> None:
    """Write the model, its curve, its metrics, and what the machine was."""
    from stages.lib.model import model_file

    model_file.save(run.out("models/classifier.safetensors"), model, card)
    write_curve(run, curve)
    best = min(curve, key=lambda row: row["val_loss"]) if run.param("train").keep == "best" else curve[-1]
    result = {key: round(value, 6) for key, value in best.items() if key not in ("epoch", "lr")}
    weights = sum(parameter.numel() for parameter in model.parameters())
    run.write_json("metrics/train.json", {**result, "epoch": best["epoch"], "epochs": len(curve), "weights": weights})
    files.write_whole(ENVIRONMENT, (json.dumps(environment, indent=2, sort_keys=True) + "\n").encode())
    run.say(f"wrote models/classifier.safetensors: {card.architecture}, {weights:,} weights")


def write_curve(run: Run, curve: "list[Row]") -> None:
    """Write one row an epoch."""
    import pandas as pd

    frame = pd.DataFrame(curve).astype({"epoch": int}).round(6)
    frame.to_csv(run.out(CURVES), index=False, lineterminator="\n")


def refuse_what_cannot_work(recipe: "Train", training: "AnnotatedImages", validation: "AnnotatedImages") -> None:
    """Stop a doomed run before its first step.

    Raises:
        StageError: a class has no training row, a batch is larger than the split, or a choice needs validation rows.
    """
    absent = set(range(len(training.class_names))) - set(training.labels.tolist())
    if absent:
        names = ", ".join(training.class_names[label] for label in sorted(absent))
        raise StageError(f"data/annotations.csv: no training row for the class {names}")
    if len(training) < recipe.batch_size:
        raise StageError(f"train.batch_size: {recipe.batch_size} is more than the {len(training):,} training images")
    if not len(validation) and (recipe.patience or recipe.keep == "best"):
        key = "patience" if recipe.patience else "keep"
        raise StageError(f"train.{key}: needs validation rows; data/annotations.csv has none with the split val")


def start_from(run: Run, model: "nn.Module", path: Path) -> None:
    """Take the weights of the file that ``train.warm_start`` names, and say what fitted."""
    from stages.lib.train import warm_start

    if path.name == warm_start.NONE:
        return
    names = warm_start.take(model, path)
    run.say(f"warm start from {path}: {len(names['taken'])} tensors taken")
    for kind in ("missing", "unexpected", "misshaped"):
        if names[kind]:
            run.say(f"  {kind}: {', '.join(names[kind])}")


def tell_layers(
    run: Run, team: "Team", model: "nn.Module", card: "ModelCard", images: int, device: "torch.device"
) -> None:
    """Print the layers with the shapes of what they give, and in one line what will be trained on how much."""
    from stages.lib.model.models import layers

    for name, kind, output, weights in layers(model, card.shape):
        run.say(f"  {name:<10} {kind:<18} {output:<14} {f'{weights:,}' if weights else '':>11}".rstrip())
    weights = sum(parameter.numel() for parameter in model.parameters())
    frozen = weights - sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    run.say(
        f"{card.architecture} with {weights:,} weights{f' ({frozen:,} frozen)' if frozen else ''}, {images:,} images, "
        f"{run.param('train').epochs} epochs, {device.type}{f', {team.size} processes' if team.size > 1 else ''}"
    )


def tell_difference(run: Run, environment: dict[str, str | int]) -> None:
    """Say where this machine differs from the one that made the model that lies here."""
    try:
        before = json.loads(ENVIRONMENT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    changes = [f"{key} {before.get(key)} -> {value}" for key, value in environment.items() if before.get(key) != value]
    if changes:
        run.say(f"not the environment of the last model, so the last bits may differ: {', '.join(changes)}")


if __name__ == "__main__":
    sys.exit(run_stage("train", main, __doc__, kind=processes.kind_of_run()))
