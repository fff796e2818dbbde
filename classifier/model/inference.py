"""Applying a model to many images, in batches."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from classifier.model.serialization import Normalize


@torch.inference_mode()
def predict_logits(
    model: nn.Module, normalize: Normalize, batches: Iterable[torch.Tensor], device: torch.device
) -> Iterator[torch.Tensor]:
    """Logits ``(n, classes) float32`` on the CPU for each batch ``(n, C, H, W) uint8``."""
    for batch in batches:
        inputs = normalize(batch.to(device)).contiguous(memory_format=torch.channels_last)
        yield model(inputs).float().cpu()
