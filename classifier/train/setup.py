"""A training before its first step: the data checked, the model built."""

import logging
import math

from classifier import portability
from classifier.config.schema import Train
from classifier.data import images
from classifier.data.dataset import AnnotatedImages
from classifier.errors import ParamsError, StageError, shorten
from classifier.model import compute, whitening, zoo
from classifier.model.compute import Backend
from classifier.model.serialization import ModelConfig, normalization
from classifier.seeds import derive_seed

import torch
from torch import nn

WHITENING_IMAGES = 2000  # evenly spread over the training images; each has hundreds of patches
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of torchvision's weights, by channel
BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}

logger = logging.getLogger(__name__)


def check_data(config: Train, train_images: AnnotatedImages, val_images: AnnotatedImages) -> None:
    """Refuse splits that the params cannot be trained with.

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


def mean_and_std(config: Train, train_images: AnnotatedImages) -> tuple[list[float], list[float]]:
    """The figures by which ``train.normalize`` scales the pixels of each channel."""
    channels = train_images.shape[0]
    if config.normalize == "imagenet":
        known = (IMAGENET_MEAN, IMAGENET_STD)
        mean, std = (values if channels == len(values) else [sum(values) / len(values)] * channels for values in known)
        return mean, std
    if config.normalize:
        return images.mean_and_std(batch.numpy() for batch in train_images.iter_batches(1000))
    return [0.0] * channels, [1.0] * channels


def build_model(config: Train, model_config: ModelConfig, train_images: AnnotatedImages) -> nn.Module:
    """The model with fresh weights.

    Raises:
        ParamsError: the params make no model for these images, or leave a last batch on which it cannot train.
    """
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
        some = torch.arange(0, len(train_images), math.ceil(len(train_images) / WHITENING_IMAGES)).split(10)
        batches = (pixels for _, pixels in train_images.batches(some))
        model.set_stem(whitening.filters(batches, zoo.STEM_SIDE, *normalization(model_config)))
    return model


def log_summary(config: Train, model: nn.Module, model_config: ModelConfig, num_images: int, backend: Backend) -> None:
    """Log the layers with their output shapes, and in one line what will be trained on what."""
    for name, kind, output, count in zoo.summarize_layers(model, model_config.shape):
        logger.info(f"  {name:<10} {kind:<18} {output:<14} {f'{count:,}' if count else '':>11}".rstrip())
    total = sum(parameter.numel() for parameter in model.parameters())
    frozen = total - sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info(
        f"{model_config.architecture} with {total:,} parameters{f' ({frozen:,} frozen)' if frozen else ''}, "
        f"{num_images:,} images, {config.epochs} epoch{'s' * (config.epochs > 1)}, {backend.device.type}"
        f"{f', {config.world_size} processes' if config.world_size > 1 else ''}"
    )
    flags = portability.cpu_flags()
    if config.precision == "bf16" and backend.device.type == "cpu" and flags and not flags & BF16_INSTRUCTIONS:
        logger.warning(
            "this processor has no bf16 instructions: a step takes about nine times as long as with train.precision:"
            " fp32 (the default network, measured with AVX2)"
        )
