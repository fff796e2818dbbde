"""The results of a training: weights, curves, metrics, and the environment that it ran in."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator

from classifier import portability
from classifier.model import compute, serialization
from classifier.model.inference import predict_logits
from classifier.model.serialization import ModelConfig
from classifier.runner import files
from classifier.runner.context import StageContext
from classifier.tensorboard import TensorBoardLogger
from classifier.train import calibration
from classifier.train.loop import VALIDATION_BATCH_SIZE, Task
from classifier.train.meter import Row
from classifier.yaml_file import flatten

import pandas as pd
import torch
from torch import nn

ENVIRONMENT = "models/environment.json"
CURVES, METRICS = "metrics/train/curves.csv", "metrics/train.json"
DECIMALS = 6

Environment = dict[str, str | int | bool]

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def epoch_callback(
    context: StageContext, model: nn.Module, model_config: ModelConfig, name: str
) -> Iterator[Callable[[list[Row]], None]]:
    """A function that rewrites curves and metrics after each epoch, and TensorBoard's files of that name if wanted."""
    with contextlib.ExitStack() as stack:
        tensorboard = None
        if context.params.runtime.tensorboard and context.is_rank_zero:
            logs = context.untracked_out("logs") / name
            tensorboard = stack.enter_context(TensorBoardLogger(logs, model, model_config.shape))

        def on_epoch(history: list[Row]) -> None:
            write_figures(context, history)
            for path in (CURVES, METRICS):
                context.publish_preview(path)
            if tensorboard:
                tensorboard.update(history)

        yield on_epoch


def calibrate(model: nn.Module, task: Task) -> float:
    """The temperature that the logits are divided by for calibrated probabilities; 1 without validation images."""
    if not len(task.val_images):
        return 1.0
    batches = task.val_images.iter_batches(VALIDATION_BATCH_SIZE)
    logits = torch.cat([*predict_logits(model, task.normalize, batches, task.backend)]).cpu()
    return calibration.fit_temperature(logits.numpy(), task.val_images.labels.numpy())


def write(context: StageContext, model: nn.Module, model_config: ModelConfig, task: Task, history: list[Row]) -> None:
    """Write the model, its curves and metrics, and the environment."""
    model_config = dataclasses.replace(model_config, temperature=calibrate(model, task))
    serialization.save(context.out("models/classifier.safetensors"), model, model_config)
    write_figures(context, history)
    environment = {**compute.environment(task.backend), "packages": context.packages}
    files.atomic_write(context.untracked_out(ENVIRONMENT), portability.json_bytes(environment))
    total = sum(parameter.numel() for parameter in model.parameters())
    logger.info(f"wrote models/classifier.safetensors: {model_config.architecture}, {total:,} parameters")


def write_figures(context: StageContext, history: list[Row]) -> None:
    """Write the curves, one row an epoch, and the metrics of the epoch that is kept: the last or the best so far."""
    frame = pd.DataFrame(history).astype({"epoch": int}).round(DECIMALS)
    frame.to_csv(context.out(CURVES), index=False, lineterminator="\n")
    keep_best = context.params.train.keep == "best"
    kept = min(history, key=lambda row: row["val_loss"]) if keep_best else history[-1]
    metrics = {key: round(value, DECIMALS) for key, value in kept.items() if key not in ("epoch", "lr")}
    context.write_json(METRICS, metrics)


def log_environment_changes(context: StageContext, deciding: Environment) -> None:
    """Log how this machine differs from the one that made the current model."""
    try:
        before = flatten(json.loads(context.untracked_out(ENVIRONMENT).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return
    now = flatten({**deciding, "packages": context.packages})
    changes = [f"{key} {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value]
    if changes:
        logger.info(f"not the environment of the last model, so the last bits may differ: {', '.join(changes)}")
