"""The other layers on the kernels against PyTorch in float64, which may add in another order; for kernels.py."""

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from classifier.kernels import calls
from classifier.kernels.adam import Adam
from classifier.kernels.batch_norm import BatchNorm2d
from classifier.kernels.linear import Linear, norm, product
from classifier.kernels.softmax import log_softmax, softmax

import torch
from torch import Tensor, nn

Results = list[Tensor]
Checked = Iterator[tuple[str, Results, Results]]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(function: Callable[[Tensor], Tensor], inputs: Tensor, layer: nn.Module | None = None) -> Results:
    """The outputs, the gradient of the inputs, and those of the parameters of a layer, which may be the function."""
    inputs = inputs.detach().requires_grad_()
    outputs = function(inputs)
    layer = function if isinstance(function, nn.Module) else layer
    parameters = [*layer.parameters()] if layer else []
    gradient = normal(*outputs.shape, seed=4).to(outputs.dtype)
    return [outputs.detach(), *torch.autograd.grad(outputs, [inputs, *parameters], gradient)]


def products() -> Checked:
    """Matrix products, norms and linear layers."""
    draw = random.Random(1)
    calls.use(True)
    for number in range(150):
        rows, inner, columns = (draw.choice((1, 2, 10, 16, 31, 32, 48, 64, 96, 130)) for _ in range(3))
        a, b = normal(rows, 2 * inner, seed=number)[:, ::2], normal(columns, inner, seed=number + 1).T
        layer = Linear(inner, columns)
        found = [product(a, b), norm([a, b, a[0]]), *with_gradients(layer, a)]
        total = torch.cat([a.flatten(), b.flatten(), a[0]]).double().norm()
        expected = [a.double() @ b.double(), total, *with_gradients(deepcopy(layer).double(), a.double())]
        yield f"product of {rows} x {inner} x {columns}", found, expected


def softmaxes() -> Checked:
    """Softmax and its logarithm."""
    calls.use(True)
    for shape in ((1, 1), (2, 10), (300, 10), (7, 1000)):
        for function in (softmax, log_softmax):
            logits = 9 * normal(*shape, seed=1)
            found, expected = (with_gradients(function, inputs) for inputs in (logits, logits.double()))
            yield f"{function.__name__} of {shape}", found, expected


def batch_norms() -> Checked:
    """Batch normalization in training and afterwards."""
    calls.use(True)
    for channels, batch, side in ((1, 2, 2), (6, 5, 13), (64, 64, 6), (100, 7, 1)):
        layer, maps = BatchNorm2d(channels), 3 * normal(batch, channels, side, side, seed=channels) + 2
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        found: list[Results] = []
        for module, inputs in ((layer, maps), (deepcopy(layer).double(), maps.double())):
            trained = with_gradients(module.train(), inputs)
            with torch.inference_mode():
                found.append([*trained, module.eval()(inputs), *module.buffers()])
        yield f"batch norm of {maps.shape}", found[0], found[1]


def adams() -> Checked:
    """Twenty steps of Adam and AdamW."""
    for decoupled, other in ((False, torch.optim.Adam), (True, torch.optim.AdamW)):
        parameters = [nn.Parameter(normal(1001, seed=0).to(kind)) for kind in (torch.float32, torch.float64)]
        options: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
        optimizers = Adam(parameters[:1], decoupled=decoupled, **options), other(parameters[1:], **options)
        for step in range(20):
            for parameter, optimizer in zip(parameters, optimizers, strict=True):
                parameter.grad = normal(1001, seed=step).to(parameter.dtype)
                optimizer.step()
        yield other.__name__, [*parameters[:1]], [*parameters[1:]]


LAYERS = (products, softmaxes, batch_norms, adams)
