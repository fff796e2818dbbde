"""The gradient of a batch: in parts, with the same bits whatever the number of threads, or of the whole at once."""

import contextlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

from classifier.config.schema import Train
from classifier.model.compute import Backend, start_training_thread
from classifier.train import distributed
from classifier.train.losses import Criterion

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

PART = 64  # images, at most; smaller parts fit the caches no better, and each costs the overhead of a whole model
SMALLEST_PART = 2  # images: batch normalization of a vector needs two


def count_parts(batch_size: int) -> int:
    """How many parts a batch is cut into; it decides the result, so it depends on nothing else."""
    return max(1, min(batch_size // SMALLEST_PART, max(2, math.ceil(batch_size / PART))))


def autocast(precision: str, device: torch.device) -> Any:
    """The context in which a forward pass has that precision, ``train.precision``."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def make_gradient(
    model: nn.Module, loss: Criterion, config: Train, backend: Backend, eval_modules: Sequence[nn.Module] = ()
) -> "Gradient":
    """In parts if the result is to be portable, of the whole batch otherwise.

    Args:
        model: on its device, with its initial weights.
        loss: from outputs and targets to the losses, ``(N,)``.
        config: the section ``train`` of params.yaml.
        backend: where and how the model computes.
        eval_modules: modules with frozen statistics, which stay in evaluation mode.
    """
    if backend.in_parts:
        return PartsGradient(model, loss, eval_modules, config.batch_size, backend.threads)
    return WholeBatchGradient(model, loss, eval_modules, autocast(config.precision, backend.device))


class Gradient:
    """Sets the gradients of a model.

    Args:
        model: whose parameters get the gradients.
        loss: from outputs and targets to the losses, ``(N,)``.
        eval_modules: modules with frozen statistics, which stay in evaluation mode.
    """

    def __init__(self, model: nn.Module, loss: Criterion, eval_modules: Sequence[nn.Module] = ()):
        self._model, self._loss, self._eval_modules = model, loss, eval_modules

    def train_mode(self) -> None:
        """Bring the model into training mode, less the frozen modules."""
        self._model.train()
        for module in self._eval_modules:
            module.eval()

    def __call__(self, inputs: Tensor, targets: Tensor, weights: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """Set the gradients of the weighted losses' sum, divided by the size of the batch.

        Args:
            inputs: ``(N, C, H, W) float32``.
            targets: ``(N, ...)``.
            weights: of the losses, ``(N,) float32``.
            total: size of the batch of all processes.

        Returns:
            The losses ``(N,)``, without weights, and the outputs ``(N, classes) float32``.
        """
        raise NotImplementedError


class WholeBatchGradient(Gradient):
    """PyTorch's threads share each operation, and the processes of a distributed run share the batch."""

    def __init__(self, model: nn.Module, loss: Criterion, eval_modules: Sequence[nn.Module], autocast: Any):
        super().__init__(model, loss, eval_modules)
        self._network, self._autocast = distributed.setup_module(model), autocast

    def __call__(self, inputs: Tensor, targets: Tensor, weights: Tensor, total: int) -> tuple[Tensor, Tensor]:
        with self._autocast:
            outputs = self._network(inputs.contiguous(memory_format=torch.channels_last))
        losses = self._loss(outputs.float(), targets)
        # The processes' gradients are averaged.
        ((losses * weights).sum() / (total / distributed.world_size())).backward()
        return losses.detach(), outputs.detach()


class PartsGradient(Gradient):
    """The same bits whatever the number of threads, for a single process.

    PyTorch shares each operation between its threads, and most sums then depend on how many there are. Here a batch is
    cut into a fixed number of parts. Each part goes through a replica of the model on one thread, and the gradients are
    added in the order of the parts. It is also faster: the activations of a part fit the processor's caches, and the
    threads wait for each other once a step instead of at every operation.

    Batch normalization sees a part at a time ("ghost batch normalization", Hoffer et al. 2017), and its running
    statistics are the mean over the parts.

    Args:
        model, loss, eval_modules: as of ``Gradient``.
        batch_size: the largest.
        threads: how many parts are computed at a time.
    """

    def __init__(
        self, model: nn.Module, loss: Criterion, eval_modules: Sequence[nn.Module], batch_size: int, threads: int
    ):
        super().__init__(model, loss, eval_modules)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._replicas = [_replicate(model) for _ in range(count_parts(batch_size))]
        of_replicas = zip(*(replica.modules() for replica in self._replicas), strict=True)
        self._norms = [
            (module, copies)
            for module, copies in zip(model.modules(), of_replicas, strict=True)
            if isinstance(module, _BatchNorm)
        ]
        # Dropout draws from one generator for all threads: then the parts must come one after the other.
        self._pool = ThreadPoolExecutor(1 if _is_random(model) else threads, initializer=start_training_thread)

    def train_mode(self) -> None:
        """Bring the model and its replicas into training mode, less the frozen modules."""
        super().train_mode()
        for replica in self._replicas:
            for module, copy in zip(self._model.modules(), replica.modules(), strict=True):
                copy.training = module.training
                if isinstance(module, _BatchNorm) and not module.training:
                    for name, buffer in module.named_buffers(recurse=False):
                        copy._buffers[name] = buffer

    def __call__(self, inputs: Tensor, targets: Tensor, weights: Tensor, total: int) -> tuple[Tensor, Tensor]:
        count = count_parts(total)
        parts = zip(
            self._replicas, *(tensor.tensor_split(count) for tensor in (inputs, targets, weights)), strict=False
        )

        def compute(part: tuple[nn.Module, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
            replica, some_inputs, some_targets, some_weights = part
            outputs = replica(some_inputs.contiguous(memory_format=torch.channels_last))
            losses = self._loss(outputs, some_targets)
            share = (losses * some_weights).sum() / total
            return losses.detach(), outputs.detach(), torch.autograd.grad(share, self._parameters, allow_unused=True)

        losses, outputs, gradients = zip(*self._pool.map(compute, parts), strict=True)
        for parameter, gradient in zip(self._parameters, _sums(gradients), strict=True):
            parameter.grad = gradient
        self._update_statistics(count)
        return torch.cat(losses), torch.cat(outputs)

    @torch.no_grad()
    def _update_statistics(self, count: int) -> None:
        for module, copies in self._norms:
            if not module.training or module.running_mean is None:
                continue
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            module.num_batches_tracked += 1
            momentum = 1 / int(module.num_batches_tracked) if module.momentum is None else module.momentum
            of_parts = [[copy.running_mean, copy.running_var] for copy in copies[:count]]
            for running, statistic in zip((module.running_mean, module.running_var), _sums(of_parts), strict=True):
                assert statistic is not None
                running.mul_(1 - momentum).add_(statistic, alpha=momentum / count)


def _replicate(model: nn.Module) -> nn.Module:
    """A copy that shares the parameters; after a step its running statistics are those of its part alone."""
    replica = deepcopy(model)
    for module, copy in zip(model.modules(), replica.modules(), strict=True):
        copy._parameters = module._parameters
        if isinstance(copy, _BatchNorm):
            copy.momentum = 1.0
    return replica


def _is_random(model: nn.Module) -> bool:
    """Whether a forward pass in training mode draws random numbers."""
    return any(
        isinstance(module, _DropoutNd) or type(module).__name__ == "StochasticDepth" or getattr(module, "dropout", 0)
        for module in model.modules()
    )


def _sums(parts: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """For each place the sum over the parts, in their order; None where no part has anything.

    One call a part: a call for each tensor would take longer than the additions.
    """
    totals: list[Tensor | None] = [None] * len(parts[0])
    for part in parts:
        given = [(place, tensor) for place, tensor in enumerate(part) if tensor is not None]
        known = [(totals[place], tensor) for place, tensor in given if totals[place] is not None]
        if known:
            torch._foreach_add_(*map(list, zip(*known, strict=True)))  # type: ignore[call-overload]
        for place, tensor in given:
            if totals[place] is None:
                totals[place] = tensor.clone()
    return totals
