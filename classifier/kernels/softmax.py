"""Softmax and its logarithm by the kernels, or by PyTorch where those are not in use."""

from typing import Any

from classifier.kernels import calls
from classifier.kernels.linear import product

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def softmax(logits: Tensor) -> Tensor:
    """The probabilities ``(N, classes)`` of logits of the same shape."""
    probabilities: Tensor = _Softmax.apply(logits) if calls.accept(logits) else logits.softmax(1)
    return probabilities


def log_softmax(logits: Tensor) -> Tensor:
    """The logarithms ``(N, classes)`` of the probabilities of logits of the same shape."""
    logarithms: Tensor = _LogSoftmax.apply(logits) if calls.accept(logits) else logits.log_softmax(1)
    return logarithms


def _compute(logits: Tensor) -> tuple[Tensor, Tensor]:
    logarithms, probabilities = torch.empty(2, *logits.shape)
    calls.call("softmax", logits.shape, logits.contiguous(), logarithms, probabilities)
    return logarithms, probabilities


def _sum_columns(matrix: Tensor) -> Tensor:
    return product(matrix, matrix.new_ones(matrix.shape[1], 1))


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        _, probabilities = _compute(logits)
        ctx.save_for_backward(probabilities)
        return probabilities

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (probabilities,) = ctx.saved_tensors
        of_logits: Tensor = probabilities * (gradient - _sum_columns(gradient * probabilities))
        return of_logits


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        logarithms, probabilities = _compute(logits)
        ctx.save_for_backward(probabilities)
        return logarithms

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (probabilities,) = ctx.saved_tensors
        of_logits: Tensor = gradient - probabilities * _sum_columns(gradient)
        return of_logits
