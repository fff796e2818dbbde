"""Applying a model to many images, in batches."""

from collections.abc import Iterator

import torch
from torch import nn

from stages.lib.dataset import AnnotatedImages
from stages.lib.model_file import Normalise


@torch.inference_mode()
def logits_by_batch(
    model: nn.Module, normalise: Normalise, data: AnnotatedImages, batch_size: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """Logits ``(n, classes) float32`` on the CPU for each batch of the data's images, in their order."""
    for batch in data.in_order(batch_size):
        inputs = normalise(batch.to(device)).contiguous(memory_format=torch.channels_last)
        yield model(inputs).float().cpu()


def loss_and_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Mean cross entropy, in nats, and the fraction of correct predictions."""
    loss = nn.functional.cross_entropy(logits.double(), labels)
    return loss.item(), (logits.argmax(1) == labels).double().mean().item()
