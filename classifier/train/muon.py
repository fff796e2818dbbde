"""Muon for convolutional networks: momentum whose update is made orthogonal.

Source: Jordan et al., "Muon: an optimizer for hidden layers" (kellerjordan.github.io/posts/muon, 2024), with the
normalized filters of the same author's airbench. ``torch.optim.Muon`` takes two-dimensional parameters only, and the
weights of a convolution have four dimensions.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from classifier.kernels.linear import norm, product
from classifier.model.compute import start_training_thread

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Muon for groups with ``orthogonal=True``, SGD with Nesterov momentum for the others.

    Args:
        params: parameter groups; each has ``lr``, ``momentum``, ``weight_decay`` and ``orthogonal``. Weight decay means
            nothing where it is orthogonal: there the norm of a parameter is fixed.
        in_thread: update in a thread like those that compute the gradient: see ``start_training_thread``. One, since
            two took longer: the many short operations wait for the interpreter's lock.
    """

    def __init__(self, params: Iterable[dict[str, Any]], in_thread: bool = False):
        super().__init__(params, {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0, "orthogonal": False})
        self._thread = ThreadPoolExecutor(1, initializer=start_training_thread) if in_thread else None

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if self._thread:
            self._thread.submit(self._update_all).result()
        else:
            self._update_all()

    def _update_all(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    @torch.no_grad()
    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if not group["orthogonal"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(gradient)
        update = gradient.add(state["momentum"], alpha=group["momentum"])  # Nesterov's look ahead
        if group["orthogonal"]:
            parameter.mul_(len(parameter) ** 0.5 / norm([parameter]))
            update = orthogonal(update.flatten(1)).view_as(update)
        parameter.add_(update, alpha=-group["lr"])


def orthogonal(matrix: Tensor, steps: int = 3) -> Tensor:
    """Bring the singular values of ``(n, m)`` near 1 by Newton-Schulz iterations; n <= m is the cheap way round.

    The coefficients are the source's: they trade exactness (values between about 0.7 and 1.2) for speed. Each iteration
    multiplies by a polynomial of the Gram matrix, and such polynomials commute. So the iterations stay with ``(n, n)``
    matrices, and the wide one is multiplied twice in all instead of twice an iteration.
    """
    x = matrix / (norm([matrix]) + 1e-7)
    gram = product(x, x.T)
    factor = factors = _factor(gram)
    for _ in range(steps - 1):
        gram = product(product(factor, gram), factor)
        factor = _factor(gram)
        factors = product(factor, factors)
    return product(factors, x)


def _factor(gram: Tensor) -> Tensor:
    """3.4445 - 4.7750 gram + 2.0315 gram^2."""
    factor = gram.mul(-4.7750).add_(product(gram, gram), alpha=2.0315)
    factor.diagonal().add_(3.4445)
    return factor
