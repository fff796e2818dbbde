"""Batch normalization by the kernels, or by PyTorch where those are not in use."""

from typing import Any

from classifier.kernels import calls

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class BatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` of our own models: in portable mode the kernels compute it."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self._epsilon = torch.tensor(self.eps)  # made once: a small tensor takes as long as a kernel on a small map

    def forward(self, maps: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to the same shape."""
        if not calls.accept(maps, self.weight) or not self._fits(maps):
            return super().forward(maps)
        rows = maps.numel() // self.num_features
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = torch.empty_like(self.weight), torch.empty_like(self.weight)
            maps = maps.contiguous(memory_format=torch.channels_last)
            calls.call("statistics", (rows, self.num_features), maps.detach(), mean, variance)
            self._update_statistics(mean, variance * (rows / (rows - 1)))
        normalized: Tensor = _Normalize.apply(maps, mean, variance, self._epsilon, self.weight, self.bias)
        return normalized

    def _fits(self, maps: Tensor) -> bool:
        """Whether the kernels can take these maps; PyTorch refuses others, and has the gradient of a frozen layer."""
        rows = maps.numel() // self.num_features
        is_known = maps.dim() == 4 and maps.shape[1] == self.num_features and maps.numel() > 0
        return is_known and (rows > 1 if self.training else not torch.is_grad_enabled())

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if self.momentum == 1:  # the replica of a part: see PartsGradient
            self.running_mean, self.running_var = mean, variance
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.mul_(1 - self.momentum).add_(mean, alpha=self.momentum)
        self.running_var.mul_(1 - self.momentum).add_(variance, alpha=self.momentum)


class _Normalize(torch.autograd.Function):
    """Gradients are those of training: mean and variance are of the maps themselves."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, mean: Tensor, variance: Tensor, epsilon: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        maps = maps.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(maps, mean, variance, epsilon, weight)
        result = torch.empty_like(maps)
        calls.call("normalize", _matrix(maps), maps, mean, variance, epsilon, weight, bias, result)
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, mean, variance, epsilon, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_maps, of_weight, of_bias = torch.empty_like(maps), torch.empty_like(weight), torch.empty_like(weight)
        calls.call(
            "normalize_gradient", _matrix(maps), gradient, maps, mean, variance, epsilon, weight,
            of_maps, of_weight, of_bias,
        )  # fmt: skip
        return of_maps, None, None, None, of_weight, of_bias


def _matrix(maps: Tensor) -> tuple[int, int]:
    return maps.numel() // maps.shape[1], maps.shape[1]
