"""RMSprop whose square root is the processor's own.

``torch.optim.RMSprop`` takes square roots from MKL. In the mode that gives other processors' results (``MKL_CBWR=
COMPATIBLE``) MKL starts from an approximation in hardware, which AMD and Intel make differently.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from classifier.train.optimizer import Optimizer


class RMSprop(Optimizer):
    """The update of ``torch.optim.RMSprop`` (not centered), on CPUs.

    Args:
        params: parameter groups.
        lr: learning rate.
        alpha: decay of the running average of the squared gradient.
        eps: added to its root.
        momentum: of the update.
        weight_decay: added to the gradient, times the parameter.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        alpha: float,
        eps: float,
        momentum: float,
        weight_decay: float = 0.0,
    ):
        options = {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, options)

    def update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        """Update one parameter."""
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if not state:
            state["square_avg"] = torch.zeros_like(parameter)
            if group["momentum"]:
                state["momentum_buffer"] = torch.zeros_like(parameter)
        square_avg = state["square_avg"].mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
        root = torch.from_numpy(np.sqrt(square_avg.numpy())).add_(group["eps"])
        if group["momentum"]:
            buffer = state["momentum_buffer"].mul_(group["momentum"]).addcdiv_(gradient, root)
            parameter.add_(buffer, alpha=-group["lr"])
        else:
            parameter.addcdiv_(gradient, root, value=-group["lr"])
