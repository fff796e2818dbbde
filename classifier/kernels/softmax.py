"""Softmax and its logarithm by the kernels, or by PyTorch where those are not in use."""

from typing import Any

from classifier.kernels import calls
from classifier.kernels.linear import product

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def softmax(logits: Tensor) -> Tensor:
    """The probabilities ``(N, classes)`` of logits of the same shape."""
    probabilities: Tensor = _Softmax.apply(logits, False) if calls.accept(logits) else logits.softmax(1)
    return probabilities


def log_softmax(logits: Tensor) -> Tensor:
    """The logarithms ``(N, classes)`` of the probabilities of logits of the same shape."""
    logarithms: Tensor = _Softmax.apply(logits, True) if calls.accept(logits) else logits.log_softmax(1)
    return logarithms


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, is_log: bool) -> Tensor:
        logits = logits.contiguous()
        logarithms, probabilities = torch.empty_like(logits), torch.empty_like(logits)
        calls.call("softmax", logits.shape, logits, logarithms, probabilities)
        ctx.save_for_backward(probabilities)
        ctx.is_log = is_log
        return logarithms if is_log else probabilities

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (probabilities,) = ctx.saved_tensors
        ones = probabilities.new_ones(probabilities.shape[1], 1)
        of_logits: Tensor
        if ctx.is_log:
            of_logits = gradient - probabilities * product(gradient, ones)
        else:
            of_logits = probabilities * (gradient - product(gradient * probabilities, ones))
        return of_logits, None
