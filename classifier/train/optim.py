"""Optimizers by name, and the learning rate as a function of the step."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from classifier.kernels import calls
from classifier.kernels.adam import Adam
from classifier.train.muon import Muon

import torch
from torch import nn

OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
FUSED = {"sgd", "adam", "adamw", "adagrad"}  # these have one kernel for CPUs, which takes a third of the time


def make_optimizer(
    name: str, options: dict[str, Any], model: nn.Module, in_thread: bool = False
) -> torch.optim.Optimizer:
    """The optimizer that ``train.optimizer`` names, with the section ``optimizers.<name>``.

    Biases and normalization layers are exempt from weight decay: to shrink those regularizes nothing and costs
    accuracy. Muon updates the filters of convolutions, except those of the first layer, which are few and small; SGD
    updates the rest. ``in_thread`` is Muon's.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    if name == "muon":
        first = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
        filters = [parameter for parameter in matrices if parameter.ndim == 4 and parameter is not first]
        others = [parameter for parameter in matrices if parameter.ndim != 4 or parameter is first]
        sgd = {"lr": options["sgd_lr"], "momentum": options["sgd_momentum"]}
        groups = [
            {"params": filters, "lr": options["lr"], "momentum": options["momentum"], "orthogonal": True},
            {"params": others, "weight_decay": options["weight_decay"], **sgd},
            {"params": vectors, **sgd},
        ]
        return _keep_peaks(Muon([group for group in groups if group["params"]], in_thread))
    decay = {"weight_decay": options["weight_decay"]}
    rest = {key: value for key, value in options.items() if key not in decay}
    groups = [{"params": matrices, **decay}, {"params": vectors, "weight_decay": 0.0}]
    if not options["weight_decay"]:
        groups = [{"params": trained, **decay}]  # one call of the kernel instead of two
    groups = [group for group in groups if group["params"]]
    is_portable = calls.accept(*trained)
    if name in ("adam", "adamw") and is_portable:
        return _keep_peaks(Adam(groups, decoupled=name == "adamw", **rest))
    if name in FUSED and all(parameter.device.type == "cpu" for parameter in trained):
        rest["fused"] = name != "sgd" or not is_portable  # its rounding depends on the processor
    return _keep_peaks(OPTIMIZERS[name](groups, **rest))


def _keep_peaks(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Keep the peak learning rate of each group, as PyTorch's schedulers do."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a fraction of its peak, at a step from 0 on.

    All schedules rise linearly over the first ``warmup_fraction`` of the steps. Then ``constant`` stays, ``step``
    multiplies by ``gamma`` after every ``step_size`` epochs, counted from the start of the run, ``cosine`` falls as
    half a cosine and ``linear`` along a straight line, both to nearly 0 at the last step.

    Attributes:
        name: what ``train.schedule`` names.
        options: the section ``schedules.<name>``.
        warmup_fraction: of all steps.
        first_steps: of each epoch, and at the end the number of all steps.
    """

    name: str
    options: dict[str, Any]
    warmup_fraction: float
    first_steps: Sequence[int]

    @property
    def total_steps(self) -> int:
        return self.first_steps[-1]

    def set_lr(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give every group of the optimizer its learning rate at a step."""
        factor = self(step)
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]

    def __call__(self, step: int) -> float:
        """The fraction of the peak at a step."""
        warmup = self.warmup_fraction * self.total_steps
        if step + 1 < warmup:
            return (step + 1) / warmup
        rest = (self.total_steps - step) / (self.total_steps - warmup + 1)  # from 1 down to nearly 0
        match self.name:
            case "constant":
                return 1.0
            case "step":
                epoch = bisect.bisect_right(self.first_steps, step) - 1
                times = epoch // self.options["step_size"]
                return float(self.options["gamma"] ** times)
            case "cosine":
                return (1 - math.cos(math.pi * rest)) / 2
            case "linear":
                return rest
        raise AssertionError(f"the schema accepts the schedule {self.name!r}, which is not implemented")
