"""Applying a trained model: folded where that is cheaper, to many images in batches."""

from collections.abc import Iterable, Iterator, Sequence

from classifier.model.compute import Backend, use_one_thread
from classifier.model.serialization import ModelConfig, Normalize
from classifier.threads import map_ahead

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """The same function, with every BatchNorm that directly follows a convolution folded into it.

    It takes a tenth off the forward passes of a model that is a ``Sequential``; others are left as they are.
    """
    if not isinstance(model, nn.Sequential):
        return model
    layers: list[nn.Module] = []
    for layer in model:
        if layers and isinstance(layer, nn.BatchNorm2d) and isinstance(layers[-1], nn.Conv2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def predict_logits(
    model: nn.Module,
    normalize: Normalize,
    batches: Iterable[torch.Tensor],
    backend: Backend,
) -> Iterator[torch.Tensor]:
    """Logits ``(n, classes) float32`` for each batch ``(n, C, H, W) uint8``, on the backend's device.

    They are not moved, so that no batch waits until an accelerator is done with the one before. A backend in parts
    computes several batches at a time, each on one thread.
    """

    @torch.inference_mode()
    def predict(batch: torch.Tensor) -> torch.Tensor:
        inputs = normalize(backend.send(batch)).contiguous(memory_format=torch.channels_last)
        logits: torch.Tensor = model(inputs)
        return logits.float()

    if backend.in_parts and backend.threads > 1:
        results = map_ahead(predict, batches, backend.threads, 2 * backend.threads, use_one_thread)
        yield from (logits for _, logits in results)
    else:
        yield from map(predict, batches)


def predict_views(
    model: nn.Module,
    model_config: ModelConfig,
    batches: Iterable[torch.Tensor],
    flips: Sequence[bool],
    backend: Backend,
) -> list[np.ndarray]:
    """Logits ``(N, classes) float32`` of the images (False) and their mirror images (True), in the order of the flips.

    Each batch, ``(n, C, H, W) uint8``, is read once.
    """
    model = fold_batch_norm(model).to(backend.device).to(memory_format=torch.channels_last)
    normalize = Normalize(model_config).to(backend.device)
    views = (images.flip(-1) if flip else images for images in batches for flip in flips)
    logits = [*predict_logits(model, normalize, views, backend)]
    return [torch.cat(logits[first :: len(flips)]).cpu().numpy() for first in range(len(flips))]
