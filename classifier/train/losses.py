"""The losses that ``train.loss`` can name. All take logits; softmax turns them into probabilities."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from classifier.kernels.softmax import log_softmax, softmax

import torch
from torch import Tensor, nn

Criterion = Callable[[Tensor, Tensor], Tensor]  # (N, classes) logits and N targets to N losses


@dataclass(frozen=True)
class Loss:
    """A loss for training, and what belongs to it.

    Attributes:
        training: what the optimizer minimizes.
        validation: the same without label smoothing, so that recipes can be compared.
        target_transform: from a label to a target; None: the label itself.
        chance_loss: the loss of equal probabilities for all classes.
    """

    training: Criterion
    validation: Criterion
    target_transform: Callable[[int], Tensor] | None
    chance_loss: float


def make_loss(name: str, options: dict[str, Any], classes: int) -> Loss:
    """The loss that ``train.loss`` names, with the section ``losses.<name>``."""
    log_classes = math.log(classes)
    match name:
        case "cross_entropy":
            return Loss(_smoothed(options["label_smoothing"], classes), _nll, None, log_classes)
        case "nll":
            return Loss(_nll, _nll, None, log_classes)
        case "mse":
            return Loss(_mse, _mse, _one_hot(classes), (1 - 1 / classes) / classes)
    raise AssertionError(f"the schema accepts the loss {name!r}, which is not implemented")


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy."""
    return nn.functional.nll_loss(log_softmax(logits), labels, reduction="none")


def _smoothed(smoothing: float, classes: int) -> Criterion:
    """The cross entropy to targets that have a part of their probability spread over all classes."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logarithms = log_softmax(logits)
        of_label = nn.functional.nll_loss(logarithms, labels, reduction="none")
        return (1 - smoothing) * of_label - smoothing / classes * logarithms.sum(1)

    return loss if smoothing else _nll


def _mse(logits: Tensor, one_hot: Tensor) -> Tensor:
    """The Brier score, divided by the number of classes."""
    return (softmax(logits) - one_hot.to(logits.dtype)).square().mean(1)


def _one_hot(classes: int) -> Callable[[int], Tensor]:
    """The target transform of PyTorch's "Transforms" tutorial: a label becomes a row of the unit matrix."""
    rows = torch.eye(classes)
    return lambda label: rows[label]
