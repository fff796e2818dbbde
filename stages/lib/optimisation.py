"""Optimizers by name and the learning rate as a function of the step."""

import math
from typing import Any

import torch
from torch import nn

from stages.lib.muon import Muon


def make_optimizer(name: str, options: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``train.optimizer`` names, with the section ``optimizers.<name>``.

    Weight decay spares biases and normalisation: to shrink those restrains nothing and costs accuracy. Muon takes the
    filters of convolutions but not the first layer's, which are few and small; SGD takes the rest.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    if name == "muon":
        filters = [parameter for parameter in matrices[1:] if parameter.ndim == 4]
        others = [parameter for parameter in matrices if all(parameter is not taken for taken in filters)]
        sgd = {"lr": options["sgd_lr"], "momentum": options["sgd_momentum"]}
        groups = [
            {"params": filters, "lr": options["lr"], "momentum": options["momentum"], "orthogonal": True},
            {"params": others, "weight_decay": options["weight_decay"], **sgd},
            {"params": vectors, **sgd},
        ]
        return Muon(group for group in groups if group["params"])
    decay = {"weight_decay": options["weight_decay"]}
    rest = {key: value for key, value in options.items() if key not in decay}
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    groups = [{"params": matrices, **decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer: torch.optim.Optimizer = kinds[name]([group for group in groups if group["params"]], **rest)
    return optimizer


def learning_rate(schedule: str, warmup_fraction: float, step: int, steps: int) -> float:
    """The learning rate at a step, 0 <= step < steps, as a fraction of the peak.

    All schedules rise linearly over the first ``warmup_fraction`` of the steps. Then ``constant`` stays, ``cosine``
    falls as half a cosine and ``one-cycle`` falls linearly, both to nearly 0 at the last step.
    """
    warmup = warmup_fraction * steps
    if step + 1 < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1
    rest = (steps - step) / (steps - warmup + 1)  # from 1 down to nearly 0
    return rest if schedule == "one-cycle" else (1 - math.cos(math.pi * rest)) / 2
