"""Matrix products, norms and linear layers by the kernels, or by PyTorch where those are not in use."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

from classifier.kernels import calls

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of ``(rows, inner)`` and ``(inner, columns)``; the kernels record no gradient."""
    if not calls.accept(a, b):
        return a @ b
    result = torch.empty(len(a), b.shape[1])
    calls.call("matrix_product", (*a.shape, b.shape[1], *a.stride(), *b.stride()), a, b, result)
    return result


def sum_rows(matrix: Tensor) -> Tensor:
    """The sum over the first of two dimensions, which is kept."""
    return product(matrix.new_ones(1, len(matrix)), matrix)


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all values together, ``()``."""
    if not calls.accept(*tensors):
        return nn.utils.get_total_norm(tensors)
    sums = [sum_rows((tensor.flatten(1) if tensor.dim() > 1 else tensor[None]).square()) for tensor in tensors]
    return torch.tensor(math.sqrt(math.fsum(chain.from_iterable(columns[0].tolist() for columns in sums))))


class Linear(nn.Linear):
    """``torch.nn.Linear`` of our own models: in portable mode the kernels compute it."""

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, in_features)`` to ``(N, out_features)``."""
        if not calls.accept(inputs, self.weight) or inputs.dim() != 2 or inputs.shape[1] != self.in_features:
            return super().forward(inputs)
        outputs: Tensor = _Linear.apply(inputs, self.weight, self.bias)
        return outputs


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        outputs = product(inputs, weight.T)
        return outputs if bias is None else outputs.add_(bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(gradient, weight) if of_inputs else None,
            product(gradient.T, inputs) if of_weight else None,
            sum_rows(gradient)[0] if of_bias else None,
        )
