"""Applying a model to many images, in batches."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from stages.lib.model.model_file import Normalise


@torch.inference_mode()
def logits_by_batch(
    model: nn.Module, normalise: Normalise, batches: Iterable[torch.Tensor], device: torch.device
) -> Iterator[torch.Tensor]:
    """Logits ``(n, classes) float32`` on the CPU for each batch ``(n, C, H, W) uint8``."""
    for batch in batches:
        inputs = normalise(batch.to(device)).contiguous(memory_format=torch.channels_last)
        yield model(inputs).float().cpu()
