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
    from torch import nn

    from stages.lib.dataset import AnnotatedImages
    from stages.lib.params import Train
    from stages.lib.train.processes import Team

ENVIRONMENT = Path("models/environment.json")


def main(run: Run) -> None:
    """Train, in as many processes as the params say."""
    with processes.together(run, run.param("train").processes) as team:
        train(run, team)


def train(run: Run, team: "Team") -> None:
    """Load, build, fit, write."""
    import pandas as pd
    import torch

    from stages.lib import images
    from stages.lib.dataset import load_splits
    from stages.lib.model import compute, model_file
    from stages.lib.model.models import takes_batch
    from stages.lib.model.scoring import logits_by_batch
    from stages.lib.seeds import derive
    from stages.lib.train import calibration, warm_start
    from stages.lib.train.checkpoint import Checkpoint
    from stages.lib.train.losses import make_loss
    from stages.lib.train.optimisation import Schedule, make_optimizer
    from stages.lib.train.training import VALIDATION_BATCH, Row, fit

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

    mean, std = [0.0] * training.shape[0], [1.0] * training.shape[0]
    if recipe.standardise:
        mean, std = images.mean_and_std(batch.numpy() for batch in training.in_order(1000))
    arguments = run.param(f"models.{recipe.model}").model_dump()
    names, shape = training.class_names, training.shape
    card = model_file.ModelCard(recipe.model, arguments, names, *shape, mean, std, run.params())
    compute.seed_generators(derive(recipe.seed, "init"))
    try:
        model = card.build()
    except ValueError as error:
        raise StageError(str(error)) from None
    last_batch = len(training) % recipe.batch_size or recipe.batch_size
    shared = f" for {team.size} processes" if team.size > 1 else ""
    if last_batch < team.size:
        raise StageError(f"train.batch_size: leaves a last batch of {last_batch}{shared}; each needs an image")
    if not takes_batch(model, shape, last_batch // team.size):
        few = f"a last batch of {last_batch}{shared}, too few for batch normalisation"
        raise StageError(f"train.batch_size: leaves {few}")
    model = team.synchronised(model)
    start_from(run, model, run.dep(f"models/pretrained/{recipe.warm_start}"))
    evaluating = warm_start.freeze(model, recipe.freeze)
    weights = describe(run, model, shape)
    frozen = weights - sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    run.say(
        f"{recipe.model} with {weights:,} weights{f' ({frozen:,} frozen)' if frozen else ''}, "
        f"{len(training):,} images, {recipe.epochs} epochs, {device.type}{shared.replace(' for', ',')}"
    )
    model = model.to(device).to(memory_format=torch.channels_last)

    steps_per_epoch = -(-len(training) // recipe.batch_size)  # the last batch may be smaller
    schedule = run.param(f"schedules.{recipe.schedule}").model_dump()
    fingerprint = run.fingerprint(environment=environment)
    team.meet(fingerprint)
    checkpoint = Checkpoint(SCRATCH / f"train-{fingerprint}")
    events = None
    if runtime.tensorboard and run.leads:
        from stages.lib.train.tensorboard import Events

        events = Events(f"{recipe.model}-{recipe.optimizer}-{recipe.seed}-{fingerprint}", model, shape)

    def write_curve(curve: list[Row]) -> None:
        frame = pd.DataFrame(curve).astype({"epoch": int}).round(6)
        frame.to_csv(run.out("metrics/train/curves.csv"), index=False, lineterminator="\n")

    def on_epoch(curve: list[Row]) -> None:
        write_curve(curve)
        run.show("metrics/train/curves.csv")
        if events:
            events.update(curve)

    normalise = model_file.Normalise(card).to(device)
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
        on_epoch,
        team,
    )
    if not run.leads:
        return

    if len(validation):
        batches = validation.in_order(VALIDATION_BATCH)
        logits = torch.cat([*logits_by_batch(kept, normalise, batches, device)])
        card = dataclasses.replace(card, temperature=calibration.fit_temperature(logits, validation.labels))
    model_file.save(run.out("models/classifier.safetensors"), kept, card)
    write_curve(curve)
    best = min(curve, key=lambda row: row["val_loss"]) if recipe.keep == "best" else curve[-1]
    result = {key: round(value, 6) for key, value in best.items() if key not in ("epoch", "lr")}
    run.write_json("metrics/train.json", {**result, "epoch": best["epoch"], "epochs": len(curve), "weights": weights})
    files.write_whole(ENVIRONMENT, (json.dumps(environment, indent=2, sort_keys=True) + "\n").encode())
    run.on_success(checkpoint.remove)
    run.say(f"wrote models/classifier.safetensors: {recipe.model}, {weights:,} weights")


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


def describe(run: Run, model: "nn.Module", shape: tuple[int, int, int]) -> int:
    """Print the layers with the shapes of what they give; return the number of weights."""
    from stages.lib.model.models import layers

    for name, kind, output, weights in layers(model, shape):
        run.say(f"  {name:<10} {kind:<18} {output:<14} {f'{weights:,}' if weights else '':>11}".rstrip())
    return sum(parameter.numel() for parameter in model.parameters())


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
