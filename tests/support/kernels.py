"""The layer on the kernels against PyTorch's convolution, both on one thread and pinned to AVX2. Run as a program:

    CLASSIFIER_KERNELS=avx2 python -m tests.support.kernels

It prints one JSON object: for each check, the cases in which the bits differ.
"""
# ruff: noqa: E402

import json
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

from classifier import portability

portability.pin_instruction_set(True)

# isort: split
from classifier.export import onnx_file
from classifier.kernels import calls
from classifier.kernels.convolution import Conv2d
from classifier.model import compute, zoo
from classifier.model.serialization import ModelConfig
from tests.support.kernel_layers import LAYERS, Checked, Results, normal, with_gradients

import torch
from torch import Tensor, nn

taken = 0  # layers that the kernels computed
KERNELS = ((2, 0), (3, 0), (3, 1), (5, 0))  # side and padding, of our own models
SIZES = (1, 2, 3, 6, 7, 8, 9, 12, 13, 16, 27, 40)
CHANNELS = (1, 2, 3, 6, 8, 10, 16, 24, 33, 64, 96)


def results(layer: nn.Module, images: Tensor, portable: bool, needs_images: bool = True) -> Results:
    """Outputs, and the gradients of images, weights and bias, by the kernels or by PyTorch."""
    calls.use(portable)
    images = images.detach().requires_grad_(needs_images)
    outputs = layer(images)
    global taken
    taken += type(outputs.grad_fn).__name__ == "_ConvolutionBackward"
    gradient = normal(*outputs.shape, seed=3).to(outputs.dtype)
    wanted = [images, *layer.parameters()] if needs_images else [*layer.parameters()]
    return [outputs.detach(), *torch.autograd.grad(outputs, wanted, gradient)]


def equal(some: Results, others: Results) -> bool:
    """Bit for bit, but any NaN is like another."""
    return all(
        torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
        for one, other in zip(some, others, strict=True)
    )


def close(some: Results, others: Results) -> bool:
    """Within the rounding of float32, relative to the largest value."""
    return all(
        (one - other).abs().max() <= 1e-5 * (1 + other.abs().max()) for one, other in zip(some, others, strict=True)
    )


def make(inputs: int, outputs: int, kernel: tuple[int, int], bias: bool = True) -> Conv2d:
    torch.manual_seed(inputs + outputs)
    return Conv2d(inputs, outputs, *kernel, bias=bias)


def cases(count: int) -> Iterator[tuple[Conv2d, Tensor, bool]]:
    """Layers with images, drawn: and whether the gradient of the images is asked for."""
    draw = random.Random(0)
    for number in range(count):
        kernel = draw.choice(KERNELS)
        sizes = [size for size in SIZES if size + 2 * kernel[1] >= kernel[0]]
        layer = make(draw.choice(CHANNELS), draw.choice(CHANNELS), kernel, draw.random() < 0.5)
        batch = draw.choice((2, 2, 3, 10, 37, 60, 64, 75))
        images = normal(batch, layer.in_channels, draw.choice(sizes), draw.choice(sizes), seed=number)
        if draw.random() < 0.8:
            layer.to(memory_format=torch.channels_last)
        if draw.random() < 0.8:
            images = images.contiguous(memory_format=torch.channels_last)
        yield layer, images, draw.random() < 0.5


def is_chain(layer: Conv2d, images: Tensor, needs_images: bool) -> bool:
    """Whether oneDNN, too, makes each output and gradient of one chain."""
    side, size = layer.kernel_size[0], images.shape[2:]
    inputs = layer.in_channels > 1 and (layer.padding == (side // 2, side // 2) or size == layer.kernel_size)
    return layer.weight.stride(1) == 1 and side <= min(size) and (inputs or not needs_images)


# --- bit for bit: each check yields the name of a case, what the kernels gave, and what it must be ------------------


def drawn() -> Checked:
    for layer, images, needs_images in cases(150):
        if not is_chain(layer, images, needs_images):
            continue
        found, expected = (results(layer, images, portable, needs_images) for portable in (True, False))
        with torch.inference_mode():
            for portable, tensors in ((True, found), (False, expected)):
                calls.use(portable)
                tensors.append(layer(images))
        yield f"{layer} {images.shape} {needs_images}", found, expected


def layouts() -> Checked:
    """Images that are slices, transposed, expanded or reversed."""
    layer = make(6, 10, (3, 1)).to(memory_format=torch.channels_last)
    whole = normal(8, 12, 14, 14, seed=0)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "every second channel": lambda x: x[:, ::2],
        "a part": lambda x: x[1:5, 3:9, 2:12, 1:13],
        "transposed": lambda x: x[:, :6].transpose(2, 3),
        "expanded": lambda x: x[:1, :6].expand(5, -1, -1, -1),
        "one channel for all": lambda x: x[:, :1].expand(-1, 6, -1, -1),
        "flipped": lambda x: x[:, :6].flip(3),
    }
    for name, form in forms.items():
        for layout in (torch.contiguous_format, torch.channels_last):
            images = form(whole.contiguous(memory_format=layout))
            yield name, results(layer, images, True), results(layer, images, False)


def not_finite() -> Checked:
    """NaN and infinity in images and weights, at the edges too."""
    for value in (float("nan"), float("inf"), float("-inf")):
        for kernel, side in (((3, 1), 13), ((3, 1), 5), ((3, 0), 3)):
            for place in ("images", "weights"):
                layer, images = make(8, 16, kernel), normal(4, 8, side, side, seed=1)
                layer.to(memory_format=torch.channels_last)
                tensor = images if place == "images" else layer.weight.data
                tensor[1, 0, 0, 0] = tensor[2, -1, -1, -1] = value
                found, expected = (results(layer, images, portable) for portable in (True, False))
                yield f"{value} in {place}, {layer} {images.shape}", found, expected


def pooled() -> Checked:
    """A convolution with the pooling behind it, where outputs are equal, too."""
    calls.use(True)
    for number, (layer, images, _) in enumerate(cases(300)):
        layer.bias = None
        if number % 2:
            images, layer.weight.data = images.round(), (4 * layer.weight.data).round()
        if min(layer(images[:1]).shape[2:]) > 1:
            found = with_gradients(layer.pooled, images, layer)
            expected = with_gradients(nn.Sequential(layer, nn.MaxPool2d(2)), images)
            yield f"{layer} {images.shape}", found, expected


def one_image() -> Checked:
    """An image alone has the outputs that it has among others."""
    calls.use(True)
    for layer, images, _ in cases(60):
        with torch.inference_mode():
            alone, among_others = layer(images[:1]), layer(images)[:1]
        yield f"{layer} {images.shape}", [alone], [among_others]


def threads() -> Checked:
    """Many calls at a time."""
    some = [*cases(40)]
    calls.use(True)
    with ThreadPoolExecutor(4, initializer=compute.use_one_thread) as pool:
        found = [*pool.map(lambda case: results(case[0], case[1], True, case[2]), some)]
    for (layer, images, needs_images), result in zip(some, found, strict=True):
        yield f"{layer} {images.shape}", result, results(layer, images, True, needs_images)


# --- against PyTorch in float64, where PyTorch may add in another order ---------------------------------------------


def several_sums() -> Checked:
    """Convolutions of which PyTorch may make several sums."""
    for layer, images, needs_images in cases(150):
        expected = results(deepcopy(layer).double(), images.double(), False, needs_images)
        yield f"{layer} {images.shape} {needs_images}", results(layer, images, True, needs_images), expected


def exports() -> list[str]:
    """The ONNX file and TensorBoard's graph of a portable run: no kernel is called for them."""
    torch.manual_seed(0)
    model = zoo.build_model("cnn", {"stem": 4, "widths": [6]}, 1, (12, 12), 3).eval()
    about = ModelConfig("cnn", {"stem": 4, "widths": [6]}, ["a", "b", "c"], 1, 12, 12, [0.3], [0.3], {})
    found = []
    for portable in (True, False):
        calls.use(portable)
        file = onnx_file.convert(model, about, 18).SerializeToString(deterministic=True)
        graph = str(torch.jit.trace(model, torch.zeros(2, 1, 12, 12)).graph)
        found.append((file, re.sub(r"___torch_mangle_\d+\.", "", graph)))  # classes are counted
    return [] if found[0] == found[1] else ["cnn"]


CHECKS = (
    *((check, equal) for check in (drawn, layouts, not_finite, pooled, one_image, threads)),
    *((check, close) for check in (several_sums, *LAYERS)),
)

if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    calls.use(True)
    differing: dict[str, Any] = {"kernels": calls.in_use(), "exports": exports()}
    for check, same in CHECKS:
        differing[check.__name__] = [name for name, found, expected in check() if not same(found, expected)]
    print(json.dumps({**differing, "taken": taken}))
