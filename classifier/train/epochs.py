"""Which images each epoch has, in which order, and how much each counts."""

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from classifier.seeds import derive_seed

if TYPE_CHECKING:
    from classifier.config import Pruning, Train


@dataclass(frozen=True)
class Epoch:
    """The images of one epoch.

    Attributes:
        indices: in their order, ``(n,) int64``.
        weights: of the loss of each, ``(n,) float32``; their sum is the number of all training images.
    """

    indices: Tensor
    weights: Tensor


class Epochs:
    """The epochs of a run. How many steps each has follows from the params alone; which images, from losses too.

    With pruning, the epochs in the middle leave out some of the images that were easy when they were last seen, anew at
    random each time; the easy ones that stay count more in return, so the expected gradient is that of all images.
    Source: InfoBatch (Qin et al., ICLR 2024), with a fixed number of images instead of those below the mean loss. Such
    epochs are full batches.

    Args:
        config: the section ``train`` of params.yaml.
        labels: of all training images, ``(N,) int64``.

    Attributes:
        first_steps: of each epoch, and at the end the number of all steps.
    """

    def __init__(self, config: "Train", labels: Tensor):
        self._config, self._labels = config, labels
        easy, skipped = _count_pruned(config.pruning, len(labels), config.batch_size)
        self._pruned = [(easy, skipped) if self._is_pruned(epoch) else (0, 0) for epoch in range(config.epochs)]
        steps = (math.ceil((len(labels) - skipped) / config.batch_size) for _, skipped in self._pruned)
        self.first_steps = [0, *accumulate(steps)]

    def _is_pruned(self, epoch: int) -> bool:
        start, end = (self._config.epochs * part for part in self._config.pruning.between)
        return start <= epoch and epoch + 1 <= end

    @property
    def needs_losses(self) -> bool:
        """Whether any epoch is pruned."""
        return any(skipped for _, skipped in self._pruned)

    def draw(self, epoch: int, losses: Tensor | None) -> Epoch:
        """The images of an epoch, counted from 0.

        Args:
            epoch: its number.
            losses: of each training image when it was last seen, ``(N,) float32``; infinity if it was not. None will
                do if nothing is pruned.
        """
        config, count = self._config, len(self._labels)
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epoch))
        if config.class_balance == "equal":
            shares = 1 / torch.bincount(self._labels).double()[self._labels]  # each class as often as any other
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
        return Epoch(order[kept], weights[kept])


def _count_pruned(pruning: "Pruning", count: int, batch_size: int) -> tuple[int, int]:
    """How many of ``count`` images are easy, and how many of these are left out; full batches are left."""
    easy = int(pruning.easy * count)
    left = (count - int(pruning.skip * easy)) // batch_size * batch_size
    skipped = count - left
    return (easy, skipped) if pruning.skip and left and skipped < easy else (0, 0)
