"""The digests of PyTorch's operations in portable mode, over the shapes that the pipeline's networks use.

``python -m tests.support.operations`` prints them for this processor; ``tests/data/operations.json`` has what other
processors printed: under "digests" what only x86-64 processors agree on, under "everywhere" what ARM does, too. They
belong to one version of PyTorch. Inputs are drawn as integers: PyTorch's normal numbers differ between the two.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator

from classifier import portability

portability.pin_instruction_set(True)

# isort: split
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

Elementwise = Callable[[torch.Tensor], torch.Tensor]

ELEMENTWISE: dict[str, Elementwise] = {
    "exp": torch.exp,
    "log": lambda x: (x.abs() + 1e-3).log(),
    "divide": lambda x: 1 / (x.abs() + 1e-3),
    "sum": torch.sum,
    "sum of rows": lambda x: x.sum(1),
    "sum of columns": lambda x: x.sum(0),
    "mean": torch.mean,
    "std": torch.std,
    "norm": torch.linalg.vector_norm,
    "softmax": lambda x: x.softmax(1),
    "log softmax": lambda x: x.log_softmax(1),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.3),
    "add with a factor": lambda x: x.add(x.flip(0), alpha=-0.07),
    "affine grid": lambda x: F.grid_sample(
        x[:, None, :28, None].expand(-1, -1, -1, 28).contiguous(),
        F.affine_grid(x[:, :6].view(-1, 2, 3), [256, 1, 28, 28], False),
        align_corners=False,
    ),
    "lerp": lambda x: x.lerp(x.flip(0), 0.3),
}
MATMULS = (
    (64, 784, 512), (64, 512, 512), (64, 512, 10), (256, 96, 10), (64, 144, 64), (128, 576, 128), (1000, 784, 512)
)  # fmt: skip
CONVOLUTIONS = ((1, 8, 2, 28), (8, 16, 3, 27), (16, 48, 3, 13), (48, 96, 3, 6), (1, 6, 5, 28), (6, 16, 5, 12))


def digest(*tensors: torch.Tensor | None) -> str:
    content = b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in tensors if tensor is not None)
    return hashlib.sha256(content).hexdigest()[:12]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-30000, 30000, shape, generator=torch.Generator().manual_seed(seed)) / 2**14


def with_gradients(module: nn.Module, inputs: torch.Tensor, seed: int) -> list[torch.Tensor | None]:
    """The output, the gradient of the inputs, and those of the parameters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randint(-3000, 3000, parameter.shape, generator=generator) / 2**14)
    inputs = inputs.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    outputs = module.train()(inputs)
    outputs.backward(torch.randint(-30000, 30000, outputs.shape, generator=generator) / 2**14)
    return [outputs, inputs.grad, *(parameter.grad for parameter in module.parameters())]


def matrix_operations() -> Iterator[tuple[str, str]]:
    """Matrix products and convolutions of PyTorch, for torchvision's models."""
    for rows, inner, columns in MATMULS:
        shape = f"{rows}x{inner}x{columns}"
        yield f"matmul {shape}", digest(draw(rows, inner, seed=1) @ draw(inner, columns, seed=2))
        yield f"linear {shape}", digest(*with_gradients(nn.Linear(inner, columns), draw(rows, inner, seed=4), seed=5))
    for batch in (64, 200, 1000):
        for inputs, outputs, kernel, side in CONVOLUTIONS:
            module = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 if kernel == 3 else 0, bias=False)
            images = draw(batch, inputs, side, side, seed=6).contiguous(memory_format=torch.channels_last)
            found = with_gradients(module.to(memory_format=torch.channels_last), images, seed=7)
            yield f"convolution {inputs}-{outputs} {kernel}x{kernel} on {side}, batch {batch}", digest(*found)


def results() -> Iterator[tuple[str, str]]:
    """Each operation with the digest of its result."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    yield "randint", digest(draw(1000, 33))
    yield "rand", digest(torch.rand(1000, 33, generator=torch.Generator().manual_seed(4)))
    yield "randn", digest(torch.randn(1000, 33, generator=torch.Generator().manual_seed(4)))
    yield "kaiming uniform", digest(nn.init.kaiming_uniform_(torch.empty(96, 64, 3, 3), 5, generator=torch.Generator()))
    yield "randperm", digest(torch.randperm(54000, generator=torch.Generator().manual_seed(3)))
    for name, function in ELEMENTWISE.items():
        yield name, digest(function(draw(256, 784)))
    if not portability.IS_ARM:  # our own models do not use these, and an emulator takes minutes
        yield from matrix_operations()
    for width, side in ((8, 27), (16, 13), (48, 6), (96, 3)):
        images = draw(64, width, side, side, seed=8).contiguous(memory_format=torch.channels_last)
        modules = {"batch norm": nn.BatchNorm2d(width), "max pool": nn.MaxPool2d(2), "relu": nn.ReLU()}
        for name, layer in modules.items():
            yield f"{name} {width} on {side}", digest(*with_gradients(layer, images, seed=9))
    logits = draw(256, 10, seed=10).requires_grad_()
    loss = F.cross_entropy(logits, torch.arange(256) % 10, label_smoothing=0.1)
    loss.backward()
    yield "cross entropy", digest(loss, logits.grad)


if __name__ == "__main__":
    cpu = portability.cpu_info()
    found = {"processor": cpu.get("model name", "unknown"), "torch": torch.__version__.partition("+")[0]}
    json.dump({**found, "digests": dict(results())}, sys.stdout)
