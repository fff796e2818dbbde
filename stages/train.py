"""Train the classifier that params.yaml describes on the annotated images.

reads   data/images.zip, data/annotations.csv; params.yaml: train, compute, the chosen model and optimizer
writes  models/classifier.safetensors, metrics/train.json, metrics/train/curves.csv; models/environment.json (untracked)
run     dvc repro train, or: python -m stages.train
expect  a line an epoch; see the README for accuracy and time of the default recipe

Stop it with Ctrl-C, or pull the plug: the same command goes on where it was, to the same bytes.
"""

import json
import sys
from pathlib import Path

if not __package__:  # run as `python stages/train.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib import files
from stages.lib.errors import StageError
from stages.lib.stage import SCRATCH, Run, run_stage

ENVIRONMENT = Path("models/environment.json")


def main(run: Run) -> None:
    """Load, build, fit, write."""
    import pandas as pd
    import torch

    from stages.lib import compute, images, model_file
    from stages.lib.checkpoint import Checkpoint
    from stages.lib.dataset import load_splits
    from stages.lib.optimisation import make_optimizer
    from stages.lib.seeds import derive
    from stages.lib.training import fit

    recipe = run.param("train")
    arguments = run.param(f"models.{recipe.model}").model_dump()
    options = run.param(f"optimizers.{recipe.optimizer}").model_dump()
    device = compute.prepare(run.param("compute"))
    environment = compute.environment(device)
    tell_difference(run, environment)

    annotations_file = run.dep("data/annotations.csv")
    training, validation = load_splits(annotations_file, run.dep("data/images.zip"), "train", optional="val")
    absent = set(range(len(training.class_names))) - set(training.labels.tolist())
    if absent:
        names = ", ".join(training.class_names[label] for label in sorted(absent))
        raise StageError(f"{annotations_file}: no training row for the class {names}")

    channels, height, width = training.images.shape[1:]
    mean, std = images.mean_and_std(training.images.numpy())
    card = model_file.ModelCard(recipe.model, arguments, training.class_names, channels, height, width, mean, std)
    compute.seed_everything(derive(recipe.seed, "init"))
    try:
        model = card.build().to(device).to(memory_format=torch.channels_last)
    except ValueError as error:
        raise StageError(str(error)) from None
    weights = sum(p.numel() for p in model.parameters())
    run.say(f"{recipe.model} with {weights:,} weights, {len(training):,} images, {recipe.epochs} epochs, {device.type}")

    checkpoint = Checkpoint(SCRATCH / f"train-{run.fingerprint(environment=environment)}")
    kept, curve = fit(
        run,
        model,
        make_optimizer(recipe.optimizer, options, model),
        model_file.Normalise(card).to(device),
        training,
        validation,
        recipe,
        checkpoint,
        run.setting("runtime").checkpoint_seconds,
    )

    model_file.save(run.out("models/classifier.safetensors"), kept, card)
    pd.DataFrame(curve).astype({"epoch": int}).round(6).to_csv(
        run.out("metrics/train/curves.csv"), index=False, lineterminator="\n"
    )
    last = {key: round(value, 6) for key, value in curve[-1].items() if key not in ("epoch", "lr")}
    run.write_json("metrics/train.json", {**last, "epochs": len(curve), "weights": weights})
    files.write_whole(ENVIRONMENT, (json.dumps(environment, indent=2, sort_keys=True) + "\n").encode())
    run.on_success(checkpoint.remove)
    run.say(f"wrote models/classifier.safetensors: {recipe.model}, {weights:,} weights")


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
    sys.exit(run_stage("train", main, __doc__))
