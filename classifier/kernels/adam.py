"""Adam by the kernels: PyTorch's multiplies and adds in one rounding or in two, depending on the processor."""

from collections.abc import Callable, Iterable
from typing import Any

from classifier.kernels import calls

import torch
from torch import Tensor


class Adam(torch.optim.Optimizer):
    """``torch.optim.Adam``, or ``torch.optim.AdamW`` if the weight decay is decoupled from the gradient; on CPUs."""

    def __init__(self, params: Iterable[Any], *, decoupled: bool, **options: Any):
        super().__init__(params, options)
        self._decoupled = decoupled

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        corrections = (1 - beta ** state["step"] for beta in (beta1, beta2))
        step, root = lr / next(corrections), next(corrections) ** -0.5
        decays = (0, 1 - lr * decay) if self._decoupled else (decay, 1)
        options = torch.tensor([step, beta1, beta2, root, group["eps"], *decays])
        gradient = torch.empty_like(parameter).copy_(gradient)  # in the order of the parameter's values
        calls.call("adam", (parameter.numel(),), options, gradient, parameter, state["exp_avg"], state["exp_avg_sq"])
