"""Optimizers by name and the learning rate as a function of the step."""

import math
from typing import Any

import torch
from torch import nn


def make_optimizer(name: str, options: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``train.optimizer`` names, with the section ``optimizers.<name>``.

    Weight decay spares biases and normalisation: to shrink those restrains nothing and costs accuracy.
    """
    decay = options.pop("weight_decay")
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimizer: torch.optim.Optimizer = kinds[name]([group for group in groups if group["params"]], **options)
    return optimizer


def learning_rate(schedule: str, peak: float, warmup_fraction: float, step: int, steps: int) -> float:
    """The learning rate at a step, 0 <= step < steps.

    All schedules rise linearly over the first ``warmup_fraction`` of the steps. Then ``constant`` stays, ``cosine``
    falls as half a cosine and ``one-cycle`` falls linearly, both to nearly 0 at the last step.
    """
    warmup = warmup_fraction * steps
    if step + 1 < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    rest = (steps - step) / (steps - warmup + 1)  # from 1 down to nearly 0
    return peak * (rest if schedule == "one-cycle" else (1 - math.cos(math.pi * rest)) / 2)
