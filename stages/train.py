"""Train the classifier that params.yaml describes on the annotated images.

reads   data/images.zip, data/annotations.csv, the file of models/pretrained/ that train.initial_checkpoint names;
        params.yaml: train, compute, the chosen model, loss, optimizer and schedule
writes  models/classifier.safetensors, metrics/train.json, metrics/train/curves.csv (anew at every epoch);
        untracked: models/environment.json, logs/ for TensorBoard
run     dvc repro train, or: python -m stages.train
expect  a line an epoch; docs/results.md has accuracy and time of the default recipe

Stop it with Ctrl-C, or pull the plug: the same command resumes, to the same bytes.
"""

import classifier.runner  # noqa: F401 (first of all: Ctrl-C ends the program without a traceback)

# isort: split
import contextlib
import dataclasses
import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import ParamsError, StageError, shorten
from classifier.train import distributed, processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import nn

    from classifier.config import Train
    from classifier.dataset import AnnotatedImages
    from classifier.model.compute import Backend
    from classifier.model.serialization import ModelConfig, Normalize
    from classifier.runner.context import StageContext
    from classifier.train.state import Row

ENVIRONMENT = Path("models/environment.json")
CURVES = "metrics/train/curves.csv"
DECIMALS = 6
WHITENING_IMAGES = 2000  # evenly spread over the training images; each has hundreds of patches
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of torchvision's weights, by channel

logger = logging.getLogger("stages.train")


def main(context: "StageContext") -> None:
    """Train, in as many processes as the params say."""
    with processes.launch(context, context.param("train").world_size) as group:
        run_training(context, group)


def run_training(context: "StageContext", group: processes.ProcessGroup) -> None:
    """Load the data, build the model, fit it, write it."""
    import torch

    from classifier.dataset import load_splits
    from classifier.model import compute, serialization
    from classifier.runner.lock import SCRATCH
    from classifier.train import pretrained
    from classifier.train.checkpoint import Checkpoint
    from classifier.train.epochs import Epochs
    from classifier.train.loop import Task, fit
    from classifier.train.losses import make_loss
    from classifier.train.optim import Schedule, make_optimizer
    from classifier.train.state import TrainState

    config, runtime = context.param("train"), context.untracked_param("runtime")
    backend = compute.prepare(context.param("compute"), runtime.threads, config.world_size)
    device = distributed.select_device(backend.device, config.world_size)
    environment = compute.environment(backend)
    warn_slow_bf16(config, device)
    warn_environment_changed(environment)

    train_images, val_images = load_splits(
        context.dep("data/annotations.csv"),
        context.dep("data/images.zip"),
        "train",
        optional="val",
        memory_mb=runtime.image_memory_mb,
        threads=runtime.prefetch_threads,
    )
    validate_setup(config, train_images, val_images)
    loss = make_loss(config.loss, context.param(f"losses.{config.loss}").model_dump(), len(train_images.class_names))
    train_images.target_transform = val_images.target_transform = loss.target_transform

    model_config = make_model_config(context, train_images)
    model = build_model(context, model_config, train_images, device)
    eval_modules = pretrained.freeze(model, config.freeze)
    print_model_summary(config, model, model_config, len(train_images), device)
    model = model.to(device).to(memory_format=torch.channels_last)
    for images in (train_images, val_images):
        images.to(device)

    fingerprint = context.fingerprint(environment=compute.deciding(environment))
    processes.init_process_group(group, device, fingerprint)
    checkpoint = Checkpoint(SCRATCH / f"train-{fingerprint}")
    epochs = Epochs(config, train_images.labels)
    schedule_options = context.param(f"schedules.{config.schedule}").model_dump()
    task = Task(
        config=config,
        loss=loss,
        schedule=Schedule(config.schedule, schedule_options, config.warmup_fraction, epochs.first_steps),
        epochs=epochs,
        normalize=serialization.Normalize(model_config).to(device),
        train_images=train_images,
        val_images=val_images,
        eval_modules=eval_modules,
        backend=backend,
    )
    optimizer = make_optimizer(config.optimizer, context.param(f"optimizers.{config.optimizer}").model_dump(), model)
    state = TrainState.create(model, optimizer, config)
    with make_epoch_callback(context, model, model_config, fingerprint) as on_epoch:
        kept = fit(
            state,
            task,
            context=context,
            checkpoint=checkpoint,
            runtime=runtime,
            on_epoch=on_epoch,
        )
    if context.is_rank_zero:
        temperature = calibrate(kept, task.normalize, val_images, backend)
        write_results(
            context, kept, dataclasses.replace(model_config, temperature=temperature), state.history, environment
        )
        context.on_success(checkpoint.remove)


def validate_setup(config: "Train", train_images: "AnnotatedImages", val_images: "AnnotatedImages") -> None:
    """Validate the setup before training.

    Raises:
        StageError: a class has no training image.
        ParamsError: a batch is larger than the split, or validation images are needed.
    """
    absent = set(range(len(train_images.class_names))) - set(train_images.labels.tolist())
    if absent:
        names = shorten(train_images.class_names[label] for label in sorted(absent))
        raise StageError(f"data/annotations.csv: no training image of the class {names}")
    if len(train_images) < config.batch_size:
        raise ParamsError(
            f"train.batch_size: {config.batch_size} is more than the {len(train_images):,} training images"
        )
    if not len(val_images) and (config.patience or config.keep == "best"):
        key = "patience" if config.patience else "keep"
        raise ParamsError(f"train.{key}: needs validation images; data/annotations.csv has none with the split val")


def make_model_config(context: "StageContext", train_images: "AnnotatedImages") -> "ModelConfig":
    """What is saved with the weights, except the temperature, which is fitted after training."""
    from classifier import images
    from classifier.model.serialization import ModelConfig

    config = context.param("train")
    channels = train_images.shape[0]
    mean, std = [0.0] * channels, [1.0] * channels
    if config.normalize == "imagenet":
        known = (IMAGENET_MEAN, IMAGENET_STD)
        mean, std = (values if channels == len(values) else [sum(values) / len(values)] * channels for values in known)
    elif config.normalize:
        mean, std = images.mean_and_std(batch.numpy() for batch in train_images.iter_batches(1000))
    arguments = context.param(f"models.{config.model}").model_dump()
    return ModelConfig(
        config.model, arguments, train_images.class_names, *train_images.shape, mean, std, context.params()
    )


def build_model(
    context: "StageContext", model_config: "ModelConfig", train_images: "AnnotatedImages", device: "torch.device"
) -> "nn.Module":
    """The model with its initial weights, fresh ones or those of ``train.initial_checkpoint``.

    Raises:
        ParamsError: the params make no model for these images, or leave a last batch on which it cannot train.
    """
    import torch

    from classifier.model import compute, serialization, zoo
    from classifier.seeds import derive_seed

    config = context.param("train")
    compute.seed_generators(derive_seed(config.seed, "init"))
    try:
        model = model_config.build()
    except ValueError as error:
        raise ParamsError(str(error)) from None
    last_batch = len(train_images) % config.batch_size or config.batch_size
    shared = f" for {config.world_size} processes" if config.world_size > 1 else ""
    if last_batch < config.world_size:
        raise ParamsError(f"train.batch_size: leaves a last batch of {last_batch}{shared}; each needs an image")
    if not zoo.supports_batch_size(model, model_config.shape, last_batch // config.world_size):
        raise ParamsError(
            f"train.batch_size: leaves a last batch of {last_batch}{shared}, too few for batch normalization"
        )
    if isinstance(model, zoo.Cnn) and model.has_whitening_stem:
        normalize = serialization.Normalize(model_config)
        some = torch.arange(0, len(train_images), math.ceil(len(train_images) / WHITENING_IMAGES)).split(10)
        model.whiten_stem(normalize(pixels) for _, pixels in train_images.batches(some))
    model = distributed.convert_sync_batchnorm(model, device, config.world_size)
    load_initial_checkpoint(model, context.dep(f"models/pretrained/{config.initial_checkpoint}"))
    return model


def load_initial_checkpoint(model: "nn.Module", path: Path) -> None:
    """Load the tensors that fit, and log the others."""
    from classifier.train import pretrained

    if path.name == pretrained.NONE:
        return
    names = pretrained.load_pretrained(model, path)
    logger.info(f"initial weights from {path}: {len(names['loaded'])} tensors loaded")
    for kind in ("missing", "unexpected", "misshaped"):
        if names[kind]:
            logger.info(f"  {kind}: {', '.join(names[kind])}")


def print_model_summary(
    config: "Train", model: "nn.Module", model_config: "ModelConfig", num_images: int, device: "torch.device"
) -> None:
    """Log the layers with their output shapes, and in one line what will be trained on what."""
    from classifier.model import zoo

    for name, kind, output, count in zoo.summarize_layers(model, model_config.shape):
        logger.info(f"  {name:<10} {kind:<18} {output:<14} {f'{count:,}' if count else '':>11}".rstrip())
    total = sum(parameter.numel() for parameter in model.parameters())
    frozen = total - sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info(
        f"{model_config.architecture} with {total:,} parameters{f' ({frozen:,} frozen)' if frozen else ''}, "
        f"{num_images:,} images, {config.epochs} epochs, {device.type}"
        f"{f', {config.world_size} processes' if config.world_size > 1 else ''}"
    )


@contextlib.contextmanager
def make_epoch_callback(
    context: "StageContext", model: "nn.Module", model_config: "ModelConfig", fingerprint: str
) -> "Iterator[Callable[[list[Row]], None]]":
    """What ``fit`` calls after each epoch: it rewrites the curves, and TensorBoard's files if they are wanted."""
    with contextlib.ExitStack() as stack:
        tensorboard = None
        if context.untracked_param("runtime").tensorboard and context.is_rank_zero:
            from classifier.train.tensorboard import TensorBoardLogger

            config = context.param("train")
            name = f"{config.model}-{config.optimizer}-{config.seed}-{fingerprint}"
            tensorboard = stack.enter_context(TensorBoardLogger(name, model, model_config.shape))

        def on_epoch(history: "list[Row]") -> None:
            write_curves(context, history)
            context.publish_preview(CURVES)
            if tensorboard:
                tensorboard.update(history)

        yield on_epoch


def calibrate(model: "nn.Module", normalize: "Normalize", val_images: "AnnotatedImages", backend: "Backend") -> float:
    """The temperature that the logits are divided by for calibrated probabilities; 1 without validation images."""
    import torch

    from classifier.model.inference import predict_logits
    from classifier.train import calibration
    from classifier.train.loop import VALIDATION_BATCH_SIZE

    if not len(val_images):
        return 1.0
    batches = val_images.iter_batches(VALIDATION_BATCH_SIZE)
    logits = torch.cat([*predict_logits(model, normalize, batches, backend)]).cpu()
    return calibration.fit_temperature(logits, val_images.labels)


def write_results(
    context: "StageContext",
    model: "nn.Module",
    model_config: "ModelConfig",
    history: "list[Row]",
    environment: dict[str, str | int | bool],
) -> None:
    """Write the model, its curves, the metrics of the epoch that was kept, and the environment."""
    from classifier.model import serialization
    from classifier.runner import files

    serialization.save(context.out("models/classifier.safetensors"), model, model_config)
    write_curves(context, history)
    keep_best = context.param("train").keep == "best"
    kept = min(history, key=lambda row: row["val_loss"]) if keep_best else history[-1]
    metrics = {key: round(value, DECIMALS) for key, value in kept.items() if key not in ("epoch", "lr")}
    context.write_json("metrics/train.json", metrics)
    files.atomic_write(ENVIRONMENT, files.json_bytes(environment))
    total = sum(parameter.numel() for parameter in model.parameters())
    logger.info(f"wrote models/classifier.safetensors: {model_config.architecture}, {total:,} parameters")


def write_curves(context: "StageContext", history: "list[Row]") -> None:
    """Write one row an epoch."""
    import pandas as pd

    frame = pd.DataFrame(history).astype({"epoch": int}).round(DECIMALS)
    frame.to_csv(context.out(CURVES), index=False, lineterminator="\n")


def warn_slow_bf16(config: "Train", device: "torch.device") -> None:
    """Log what bf16 costs on a processor that has to emulate it."""
    from classifier.runner.portability import cpu_flags

    flags = cpu_flags()
    if config.precision == "bf16" and device.type == "cpu" and flags and not flags & {"avx512_bf16", "amx_bf16"}:
        logger.warning(
            "this processor has no bf16 instructions: a step takes about nine times as long as with train.precision:"
            " fp32 (the default network, measured with AVX2)"
        )


def warn_environment_changed(environment: dict[str, str | int | bool]) -> None:
    """Log how this machine differs from the one that made the current model."""
    try:
        before = json.loads(ENVIRONMENT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    from classifier.model import compute

    now = compute.deciding(environment)
    changes = [f"{key} {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value]
    if changes:
        logger.info(f"not the environment of the last model, so the last bits may differ: {', '.join(changes)}")


if __name__ == "__main__":
    sys.exit(processes.run_stage("train", main, __doc__))
