"""Convolution by the kernels: one chain of fused multiply-adds an output, whatever the processor."""

from typing import Any

from classifier.kernels import calls

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` of our own models: a square kernel and stride 1.

    In portable mode the kernels compute it. PyTorch does if not portable, on accelerators, and for export.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int = 0, bias: bool = True):
        if min(inputs, outputs) < 1 or not 0 <= padding < kernel:
            raise ValueError(f"no convolution from {inputs} to {outputs} channels, kernel {kernel}, padding {padding}")
        super().__init__(inputs, outputs, kernel, padding=padding, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, rows, columns)``."""
        if not calls.accept(images, self.weight) or not self._fits(images):
            return super().forward(images)
        outputs: Tensor = _Convolution.apply(images, self.weight, self.bias, self.padding[0])
        return outputs

    def pooled(self, images: Tensor) -> Tensor:
        """The largest outputs of 2x2 windows, ``(N, outputs, rows // 2, columns // 2)``; for layers without a bias.

        The kernels do both at once, to the same bits: the whole outputs are not kept, and three of four terms of their
        gradients are zero.
        """
        if calls.accept(images, self.weight) and self._fits(images) and self.bias is None:
            outputs: Tensor = _PooledConvolution.apply(images, self.weight, self.padding[0])
            return outputs
        return nn.functional.max_pool2d(self(images), 2)

    def _fits(self, images: Tensor) -> bool:
        """Whether the kernels can read these images; PyTorch refuses all others."""
        return (
            images.dim() == 4
            and images.shape[1] == self.in_channels
            and len(images) > 0
            and min(images.shape[2:]) + 2 * int(self.padding[0]) >= self.kernel_size[0]
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        images, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (images, weight))
        ctx.save_for_backward(images, weight)
        (count, inputs, height, width), (outputs, _, side, _) = images.shape, weight.shape
        ctx.sizes = (count, height, width, inputs, outputs, side, padding)
        rows, columns = (extent + 2 * padding - side + 1 for extent in (height, width))
        result = torch.empty(count, outputs, rows, columns, memory_format=torch.channels_last)
        calls.call("forward", ctx.sizes, images, weight, None if bias is None else bias.contiguous(), result)
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images, of_weight, of_bias = None, None, None
        if ctx.needs_input_grad[0]:
            of_images = torch.empty_like(images, memory_format=torch.channels_last)
            calls.call("input_gradient", ctx.sizes, gradient, weight, of_images)
        if any(ctx.needs_input_grad[1:3]):
            of_weight = torch.empty_like(weight, memory_format=torch.channels_last)
            of_bias = torch.empty(len(weight))
            calls.call("weight_gradient", ctx.sizes, images, gradient, of_weight, of_bias)
        return of_images, of_weight, of_bias if ctx.needs_input_grad[2] else None, None


class _PooledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, padding: int) -> Tensor:
        images, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (images, weight))
        (count, inputs, height, width), (outputs, _, side, _) = images.shape, weight.shape
        ctx.sizes = (count, height, width, inputs, outputs, side, padding)
        rows, columns = ((extent + 2 * padding - side + 1) // 2 for extent in (height, width))
        result = torch.empty(count, outputs, rows, columns, memory_format=torch.channels_last)
        places = torch.empty_like(result, dtype=torch.uint8)
        ctx.save_for_backward(images, weight, places)
        calls.call("pooled_forward", ctx.sizes, images, weight, result, places)
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, places = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images, of_weight = None, torch.empty_like(weight)
        if ctx.needs_input_grad[0]:
            of_images = torch.empty_like(images)
            calls.call("pooled_input_gradient", ctx.sizes, gradient, places, weight, of_images)
        calls.call("pooled_weight_gradient", ctx.sizes, images, gradient, places, of_weight)
        return of_images, of_weight, None
