"""The layer on the kernels against PyTorch's convolution, both on one thread and pinned to AVX2. Run as a program:

    CLASSIFIER_KERNELS=avx2 python -m tests.support.kernels

It prints one JSON object: for each check, the cases in which the bits differ.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from classifier import portability

portability.pin_instruction_set(True)

# isort: split
from classifier.export import onnx_file  # noqa: E402
from classifier.kernels import convolution  # noqa: E402
from classifier.kernels.convolution import Conv2d  # noqa: E402
from classifier.model import compute, zoo  # noqa: E402
from classifier.model.serialization import ModelConfig  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

taken = 0  # layers that the kernels computed
Results = list[Tensor]
Checked = Iterator[tuple[str, Results, Results]]
SIZES = (1, 2, 3, 6, 7, 8, 9, 12, 13, 16, 27, 40)
CHANNELS = (1, 2, 3, 6, 8, 10, 16, 24, 33, 64, 96)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def results(
    layer: Conv2d, images: Tensor, portable: bool, needs_images: bool = True, count: int | None = None
) -> Results:
    """Outputs, and the gradients of images, weights and bias, by the kernels or by PyTorch.

    Args:
        count: of images, from the first, that have a gradient and are looked at.
    """
    convolution.use(portable)
    images = images.detach().requires_grad_(needs_images)
    outputs = layer(images)
    global taken
    taken += type(outputs.grad_fn).__name__ == "_ConvolutionBackward"
    gradient = torch.zeros_like(outputs)
    gradient[:count] = normal(*outputs[:count].shape, seed=3)
    wanted = [images, *layer.parameters()] if needs_images else [*layer.parameters()]
    found = torch.autograd.grad(outputs, wanted, gradient)
    of_images = [found[0][:count], *found[1:]] if needs_images else [*found]
    return [outputs.detach()[:count], *of_images]


def equal(some: Results, others: Results) -> bool:
    """Bit for bit, but any NaN is like another."""
    return all(
        torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
        for one, other in zip(some, others, strict=True)
    )


def make(inputs: int, outputs: int, kernel: tuple[int, int], bias: bool = True) -> Conv2d:
    torch.manual_seed(inputs + outputs)
    return Conv2d(inputs, outputs, *kernel, bias=bias).to(memory_format=torch.channels_last)


def cases(count: int) -> Iterator[tuple[Conv2d, Tensor, bool]]:
    """Layers with images, drawn: and whether the gradient of the images is asked for."""
    draw = random.Random(0)
    for number in range(count):
        kernel = draw.choice(sorted(convolution.PROVEN))
        sizes = [size for size in SIZES if size + 2 * kernel[1] >= kernel[0]]
        layer = make(draw.choice(CHANNELS), draw.choice(CHANNELS), kernel, draw.random() < 0.5)
        batch = draw.choice((2, 2, 3, 10, 37, 60, 64, 75))
        images = normal(batch, layer.in_channels, draw.choice(sizes), draw.choice(sizes), seed=number)
        if draw.random() < 0.2:
            layer.to(memory_format=torch.contiguous_format)
        if draw.random() < 0.8:
            images = images.contiguous(memory_format=torch.channels_last)
        yield layer, images, draw.random() < 0.5


# --- the checks: each yields the name of a case, what the kernels gave, and what PyTorch gave -----------------------


def drawn() -> Checked:
    for layer, images, needs_images in cases(150):
        found, expected = (results(layer, images, portable, needs_images) for portable in (True, False))
        with torch.inference_mode():
            for portable, tensors in ((True, found), (False, expected)):
                convolution.use(portable)
                tensors.append(layer(images))
        yield f"{layer} {images.shape} {needs_images}", found, expected


def layouts() -> Checked:
    """Images that are slices, transposed, expanded or reversed."""
    layer, whole = make(6, 10, (3, 1)), normal(8, 12, 14, 14, seed=0)
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
                tensor = images if place == "images" else layer.weight.data
                tensor[1, 0, 0, 0] = tensor[2, -1, -1, -1] = value
                yield f"{value} in {place}, {layer}", results(layer, images, True), results(layer, images, False)


def one_image() -> Checked:
    """An image alone has the outputs and gradients that it has beside another one; with PyTorch as with the kernels."""
    for layer, images, needs_images in cases(60):
        alone = images[:1]
        beside = torch.cat([alone, torch.zeros_like(alone)])
        found = results(layer, alone, True, needs_images)
        yield f"{layer} {alone.shape}", found, results(layer, beside, False, needs_images, count=1)


def threads() -> Checked:
    """Many calls at a time."""
    some = [*cases(40)]
    convolution.use(True)
    with ThreadPoolExecutor(4, initializer=compute.use_one_thread) as pool:
        found = [*pool.map(lambda case: results(case[0], case[1], True, case[2]), some)]
    for (layer, images, needs_images), result in zip(some, found, strict=True):
        yield f"{layer} {images.shape}", result, results(layer, images, True, needs_images)


def models() -> Checked:
    """Outputs and gradients of our own models in a training step."""
    for name, options in (("lenet", {}), ("cnn", {"stem": 4, "widths": [6, 10]}), ("cnn", {"stem": 8, "widths": [16]})):
        torch.manual_seed(0)
        model = zoo.build_model(name, options, 1, (28, 28), 10).to(memory_format=torch.channels_last).train()
        found: list[Results] = []
        for portable in (True, False):
            convolution.use(portable)
            outputs = model(normal(10, 1, 28, 28, seed=2))
            found.append([outputs.detach(), *torch.autograd.grad(outputs.sum(), [*model.parameters()])])
        yield name, found[0], found[1]


def exports() -> list[str]:
    """The ONNX file and TensorBoard's graph of a portable run: no kernel is called for them."""
    torch.manual_seed(0)
    model = zoo.build_model("cnn", {"stem": 4, "widths": [6]}, 1, (12, 12), 3).eval()
    about = ModelConfig("cnn", {"stem": 4, "widths": [6]}, ["a", "b", "c"], 1, 12, 12, [0.3], [0.3], {})
    found = []
    for portable in (True, False):
        convolution.use(portable)
        file = onnx_file.convert(model, about, 18).SerializeToString(deterministic=True)
        graph = str(torch.jit.trace(model, torch.zeros(2, 1, 12, 12)).graph)
        found.append((file, re.sub(r"___torch_mangle_\d+\.", "", graph)))  # classes are counted
    return [] if found[0] == found[1] else ["cnn"]


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    convolution.use(True)
    differing: dict[str, Any] = {"kernels": convolution.in_use(), "exports": exports()}
    for check in (drawn, layouts, not_finite, one_image, threads, models):
        differing[check.__name__] = [name for name, found, expected in check() if not equal(found, expected)]
    print(json.dumps({**differing, "taken": taken}))
