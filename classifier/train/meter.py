"""Loss and accuracy of the epoch so far."""

from typing import Any

from classifier.train import distributed

import torch
from torch import Tensor

Row = dict[str, float]  # of the history: an epoch's figures


class Meter:
    """Sums losses and correct predictions by the weights of their images, fetching them from the device only if asked.

    Easy images that were left out are represented by those that counted more.
    """

    def __init__(self) -> None:
        self._loss_sum = self._correct_sum = 0.0
        self._pending: list[tuple[int, Tensor]] = []  # size of the batch, and its two sums

    def add(self, losses: Tensor, correct: Tensor, weights: Tensor, total: int) -> None:
        """Count this process's part of a batch, ``(N,)`` each; ``total`` is the size of the whole batch."""
        self._pending.append((total, torch.stack([(losses * weights).sum(), (correct * weights).sum()])))

    def fetch(self, device: torch.device) -> list[float]:
        """The mean loss of each step since the last call; an accelerator is waited for."""
        mine = torch.stack([sums for _, sums in self._pending]).flatten().tolist()
        sums = distributed.all_reduce_sum(device, *mine)
        losses = []
        for (total, _), loss_sum, correct_sum in zip(self._pending, sums[::2], sums[1::2], strict=True):
            self._loss_sum += loss_sum
            self._correct_sum += correct_sum
            losses.append(loss_sum / total)
        self._pending = []
        return losses

    def end_epoch(self, count: int) -> Row:
        """Loss and accuracy over ``count`` training images, as they were augmented; then a new epoch begins."""
        row = {"train_loss": self._loss_sum / count, "train_acc": self._correct_sum / count}
        self._loss_sum = self._correct_sum = 0.0
        return row

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; everything is fetched by then."""
        return {"loss_sum": self._loss_sum, "correct_sum": self._correct_sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._loss_sum, self._correct_sum = state["loss_sum"], state["correct_sum"]
