"""The order of a run: the batches of every epoch, and how much each image counts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from classifier.config.schema import Pruning, Train
from classifier.data.dataset import AnnotatedImages
from classifier.seeds import derive_seed, derive_seeds
from classifier.train import distributed

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The images of one step.

    All on the device of the model, if the images fit there; else the pixels come from the CPU.

    Attributes:
        indices: of the images in the training split, ``(N,) int64``.
        pixels: the images, ``(N, C, H, W) uint8``.
        weights: of their losses, ``(N,) float32``.
        seed: of every random draw in the step.
    """

    indices: Tensor
    pixels: Tensor
    weights: Tensor
    seed: int


class Order:
    """The batches of a run. The params alone say how many steps an epoch has; with pruning, losses say which images.

    With pruning, the epochs in the middle leave out some of the images that were easy when they were last seen, anew at
    random each time; the easy ones that stay count more in return, so the expected gradient is that of all images.
    Source: InfoBatch (Qin et al., ICLR 2024), with a fixed number of images instead of those below the mean loss. Such
    epochs are full batches.

    Attributes:
        first_steps: of each epoch, and at the end the number of all steps.
        losses: of each training image when it was last seen, ``(N,) float32``, on the device; infinity before that.
            None if no epoch is pruned.
    """

    def __init__(self, config: Train, images: AnnotatedImages, device: torch.device):
        self._config, self._images, self._device = config, images, device
        count = len(images.labels)
        easy, skipped = _count_pruned(config.pruning, count, config.batch_size)
        start, end = (config.epochs * part for part in config.pruning.between)
        self._pruned = [
            (easy, skipped) if start <= epoch and epoch + 1 <= end else (0, 0) for epoch in range(config.epochs)
        ]
        steps = (math.ceil((count - skipped) / config.batch_size) for _, skipped in self._pruned)
        self.first_steps = [0, *accumulate(steps)]
        self.losses: Tensor | None = None
        if any(skipped for _, skipped in self._pruned):
            self.losses = torch.full((count,), math.inf, device=device)
        self._epoch_losses: Tensor | None = None  # as they were when the epoch began, on the CPU

    def batches(self, step: int, last_step: int) -> Iterator[Batch]:
        """The batches from one step to before another; an epoch is drawn when it begins."""
        size, seeds = self._config.batch_size, derive_seeds(self._config.seed, "step", start=step)
        for epoch, (first, after) in enumerate(zip(self.first_steps, self.first_steps[1:], strict=False)):
            if not first <= step < min(after, last_step):
                continue
            if step == first and self.losses is not None:
                self._epoch_losses = self.losses.to("cpu", copy=True)
            indices, weights = self.draw(epoch, self._epoch_losses)
            some = slice(step - first, last_step - first)
            pixels = self._images.batches(indices.to(self._images.device).split(size)[some])
            on_device = (tensor.to(self._device).split(size)[some] for tensor in (indices, weights))
            for (_, images), *others, seed in zip(pixels, *on_device, seeds, strict=False):
                yield Batch(others[0], images, others[1], seed)
                step += 1

    def draw(self, epoch: int, losses: Tensor | None) -> tuple[Tensor, Tensor]:
        """The images of an epoch: indices in order, ``(n,) int64``, and weights of the losses, ``(n,) float32``.

        The sum of the weights is the number of all training images. The losses, ``(N,) float32``, are those of each
        training image when it was last seen; None will do if nothing is pruned.
        """
        config, labels = self._config, self._images.labels
        count = len(labels)
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epoch))
        if config.class_balance == "equal":
            shares = 1 / torch.bincount(labels).double()[labels]  # each class as often as any other
            order = torch.multinomial(shares, count, replacement=True, generator=generator)
        else:
            order = torch.randperm(count, generator=generator) if config.shuffle else torch.arange(count)
        weights = torch.ones(count)
        easy, skipped = self._pruned[epoch]
        if skipped and losses is not None:
            easiest = losses[order].argsort(stable=True)[:easy]
            weights[easiest] = easy / (easy - skipped)
            weights[easiest[torch.randperm(easy, generator=generator)[:skipped]]] = 0
        kept = weights > 0
        return order[kept], weights[kept]

    def record(self, indices: Tensor, losses: Tensor) -> None:
        """Note the losses of a batch: its indices ``(N,)``, and the losses that this process has computed."""
        if self.losses is not None:
            self.losses[indices] = distributed.gather(losses, len(indices))

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch ends after so many steps."""
        return step in self.first_steps[1:]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"losses": self.losses, "epoch_losses": self._epoch_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.losses, self._epoch_losses = state["losses"], state["epoch_losses"]
        if self.losses is not None:
            self.losses = self.losses.to(self._device)


def _count_pruned(pruning: Pruning, count: int, batch_size: int) -> tuple[int, int]:
    """How many of ``count`` images are easy, and how many of these are left out; full batches are left."""
    easy = int(pruning.easy * count)
    left = (count - int(pruning.skip * easy)) // batch_size * batch_size
    skipped = count - left
    return (easy, skipped) if pruning.skip and left and skipped < easy else (0, 0)
