"""Calls of the compiled kernels, and whether this process makes them."""

import ctypes
from collections.abc import Sequence

from classifier.kernels.library import load

import torch
from torch import Tensor

Sizes = ctypes.c_ssize_t * 7  # each C function has its own

_enabled = False


def use(enabled: bool) -> None:
    """Let this process use the kernels, where they are compiled, or PyTorch's."""
    global _enabled
    _enabled = enabled


def in_use() -> str:
    """The instructions that the kernels use, or none."""
    return load()[0] if _enabled else "none"


def accept(*tensors: Tensor) -> bool:
    """Whether the kernels are to compute with these tensors; PyTorch does on GPUs, and when a graph is recorded."""
    return (
        in_use() != "none"
        and not torch.compiler.is_compiling()  # first: to look at a symbolic size makes it a constant
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    )


def call(name: str, sizes: Sequence[int], *tensors: Tensor | None) -> None:
    """Call a function of the library, without the interpreter's lock."""
    pointers = (None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    if getattr(load()[1], name)(Sizes(*sizes), *pointers):
        raise MemoryError(f"memory ran out in {name} of {', '.join(map(str, sizes))}")
