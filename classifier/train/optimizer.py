"""What the optimizers of our own share: an update of one parameter at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Optimizer(torch.optim.Optimizer):
    """Updates every parameter that has a gradient, by itself; a subclass says how."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter, given its gradient and the options of its group."""
        raise NotImplementedError
