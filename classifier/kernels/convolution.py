"""The layer that uses the kernels: bit for bit PyTorch's convolution with AVX2 instructions, but faster."""

import ctypes
from typing import Any

from classifier.kernels.library import Shape, load

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PROVEN = {(2, 0), (3, 0), (3, 1), (5, 0)}  # kernel and padding of our own models, which tests compare with oneDNN

_enabled = False


def use(enabled: bool) -> None:
    """Let the layers of this process use the kernels, where they are compiled, or PyTorch's convolution."""
    global _enabled
    _enabled = enabled


def in_use() -> str:
    """The instructions that the kernels use, or none."""
    return load()[0] if _enabled else "none"


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` of our own models: a square kernel and stride 1.

    In portable mode the kernels compute it, unless oneDNN makes something that is asked for of more than one chain, as
    the bits must be the same without a compiler. PyTorch computes it if not portable, on accelerators, and for export.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int = 0, bias: bool = True):
        if (kernel, padding) not in PROVEN or min(inputs, outputs) < 1:
            raise ValueError(f"no convolution from {inputs} to {outputs} channels, kernel {kernel}, padding {padding}")
        super().__init__(inputs, outputs, kernel, padding=padding, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, rows, columns)``."""
        if not _enabled or not self._accepts(images):
            return super().forward(images)
        if load()[1] and self._is_chain(images):
            outputs: Tensor = _Convolution.apply(images, self.weight, self.bias, self.padding[0])
            return outputs
        if len(images) == 1:  # PyTorch would take another kernel
            return super().forward(torch.cat([images, torch.zeros_like(images)]))[:1]
        return super().forward(images)

    def _accepts(self, images: Tensor) -> bool:
        """Whether these are images that the kernels can read; PyTorch refuses or computes all others."""
        return (
            not torch.compiler.is_compiling()  # first: to look at a symbolic size makes it a constant
            and not torch.jit.is_tracing()  # type: ignore[attr-defined]
            and images.device.type == self.weight.device.type == "cpu"
            and images.dtype == self.weight.dtype == torch.float32
            and images.dim() == 4
            and images.shape[1] == self.in_channels
            and len(images) > 0
            and min(images.shape[2:]) + 2 * int(self.padding[0]) >= self.kernel_size[0]
        )

    def _is_chain(self, images: Tensor) -> bool:
        """Whether oneDNN, too, makes each value that is asked for of one chain."""
        if self.weight.stride(1) != 1:  # not channels_last
            return False
        if not torch.is_grad_enabled():
            return True
        side, size = self.kernel_size[0], images.shape[2:]
        weights = side <= min(size)
        inputs = self.in_channels > 1 and (self.padding == (side // 2, side // 2) or size == self.kernel_size)
        return (weights or not self.weight.requires_grad) and (inputs or not images.requires_grad)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        images, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (images, weight))
        ctx.save_for_backward(images, weight)
        (count, inputs, height, width), (outputs, _, side, _) = images.shape, weight.shape
        ctx.shape = Shape(count, height, width, inputs, outputs, side, padding)
        rows, columns = (extent + 2 * padding - side + 1 for extent in (height, width))
        result = torch.empty(count, outputs, rows, columns, memory_format=torch.channels_last)
        _call("forward", ctx.shape, images, weight, None if bias is None else bias.contiguous(), result)
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images, of_weight, of_bias = None, None, None
        if ctx.needs_input_grad[0]:
            of_images = torch.empty_like(images, memory_format=torch.channels_last)
            _call("input_gradient", ctx.shape, gradient, weight, of_images)
        if any(ctx.needs_input_grad[1:3]):
            of_weight = torch.empty_like(weight, memory_format=torch.channels_last)
            of_bias = torch.empty(len(weight))
            _call("weight_gradient", ctx.shape, images, gradient, of_weight, of_bias)
        return of_images, of_weight, of_bias if ctx.needs_input_grad[2] else None, None


def _call(name: str, shape: Any, *tensors: Tensor | None) -> None:
    """Call a function of the library, without the interpreter's lock."""
    pointers = (None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    if getattr(load()[1], name)(shape, *pointers):
        raise MemoryError(f"memory ran out in a convolution of {shape[0]} images")
