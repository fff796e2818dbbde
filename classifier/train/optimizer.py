"""What the optimizers of our own share: an update of one parameter at a time."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from classifier.model.compute import start_training_thread


class Optimizer(torch.optim.Optimizer):
    """Updates every parameter that has a gradient, by itself; a subclass says how.

    Attributes:
        pool: of threads that share the parameters, each update on one thread; None: one update after the other.
    """

    def __init__(self, params: Iterable[dict[str, Any]], defaults: dict[str, Any]):
        super().__init__(params, defaults)
        self.pool: ThreadPoolExecutor | None = None

    def use_threads(self, threads: int) -> None:
        """Share the parameters between so many threads, which changes no bit."""
        self.pool = ThreadPoolExecutor(threads, initializer=start_training_thread)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        work = [
            (parameter, parameter.grad, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        work.sort(key=lambda item: -item[0].numel())  # the longest first, so that the threads end together
        for _ in (self.pool.map if self.pool else map)(lambda item: self._update(*item), work):
            pass

    @torch.no_grad()
    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        self.update(parameter, gradient, group)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter, given its gradient and the options of its group."""
        raise NotImplementedError
