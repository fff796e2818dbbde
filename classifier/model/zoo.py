"""The models that ``train.model`` can name, including torchvision's. All map normalized images to logits.

Input ``(N, C, H, W) float32``, output ``(N, classes) float32``. The constructor takes three arguments that follow from
the data, then those in the section ``models.<name>`` of params.yaml.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Literal

from classifier.kernels.convolution import Conv2d

import numpy as np
import torch
from torch import nn

STEM_SIDE = 2  # pixels
WHITENING_EPSILON = 0.01  # added to eigenvalues, of pixels of deviation 1: directions of hardly any size stay small


class Mlp(nn.Sequential):
    """A multilayer perceptron; ``hidden: [512, 512]`` is the network of PyTorch's quickstart tutorial."""

    def __init__(self, channels: int, size: tuple[int, int], classes: int, hidden: list[int]):
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = channels * size[0] * size[1]
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, classes))


class LeNet(nn.Sequential):
    """Two 5x5 convolutions with pooling, three linear layers: the network of PyTorch's 60-minute blitz.

    The input of the first linear layer depends on the image size (16 x 4 x 4 for 28x28).
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int):
        height, width = (((side - 4) // 2 - 4) // 2 for side in size)
        super().__init__(
            Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
            Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * height * width, 120), nn.ReLU(),
            nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, classes),
        )  # fmt: skip


class GlobalMaxPool(nn.Module):
    """The largest value of each channel: ``(N, C, H, W)`` to ``(N, C, 1, 1)``.

    Two ways to the same numbers: PyTorch's pooling is the fast one on CPUs, but on GPUs its gradient is added up in any
    order, which PyTorch refuses in deterministic mode.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The values."""
        return nn.functional.adaptive_max_pool2d(maps, 1) if maps.device.type == "cpu" else self.by_selection(maps)

    @staticmethod
    def by_selection(maps: torch.Tensor) -> torch.Tensor:
        """The values, on GPUs: the gradient of each goes to one place."""
        return maps.flatten(2).max(2).values[:, :, None, None]


class Cnn(nn.Sequential):
    """A small convolutional network made for the CPU.

    A 2x2 stem, then blocks of one 3x3 convolution and pooling, so that the wide layers work on small maps; the last
    convolution has no padding, so that of a map of 3x3 it makes one vector. BatchNorm comes after pooling, where a
    quarter of the values is left; at export it changes places with the pooling and folds into the convolution.
    Based on airbench (github.com/KellerJordan/cifar10-airbench), with fewer operations.

    Args:
        channels, size, classes: of the data.
        stem: channels of the first convolution, which is trained; or "whiten": see ``whiten_stem``.
        widths: channels of the 3x3 convolutions.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, stem: int | Literal["whiten"], widths: list[int]
    ):
        self.has_whitening_stem = stem == "whiten"
        inputs = 2 * channels * STEM_SIDE**2 if stem == "whiten" else stem
        layers: list[nn.Module] = [Conv2d(channels, inputs, STEM_SIDE, bias=not self.has_whitening_stem), nn.ReLU()]
        side = min(size) - STEM_SIDE + 1
        for width in widths:
            layers += [Conv2d(inputs, width, 3, padding=1, bias=False), nn.MaxPool2d(2)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            inputs, side = width, side // 2
        layers += [Conv2d(inputs, inputs, 3, padding=0 if side >= 3 else 1, bias=False)]
        layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
        super().__init__(*layers, GlobalMaxPool(), nn.Flatten(), nn.Linear(inputs, classes))
        if self.has_whitening_stem:
            next(self.parameters()).requires_grad_(False)

    @torch.no_grad()
    def whiten_stem(self, batches: Iterable[torch.Tensor]) -> None:
        """Set the filters of the stem so that their outputs are uncorrelated and of equal size on these images.

        They are the eigenvectors of the second moments of 2x2 patches, divided by the square roots of the eigenvalues;
        each is there twice, with both signs, so that the ReLU loses nothing. They are not trained: the first layer's
        gradient, which is on the largest maps, need not be computed. Source: airbench, after David Page's "How to Train
        Your ResNet 8".

        Args:
            batches: normalized images, ``(N, C, H, W) float32`` each.
        """
        moments, count = torch.zeros(()), 0
        for batch in batches:
            patches = nn.functional.unfold(batch, STEM_SIDE).transpose(1, 2).flatten(0, 1).double()
            moments, count = moments + patches.T @ patches, count + len(patches)
        values, vectors = torch.linalg.eigh(moments / count)
        roots = torch.from_numpy(np.sqrt((values + WHITENING_EPSILON).numpy()))  # PyTorch's differ between processors
        filters = (vectors / roots).T.flip(0)
        weight = next(self.parameters())
        weight.copy_(torch.cat([filters, -filters]).view_as(weight))


ARCHITECTURES: dict[str, type[nn.Module]] = {"mlp": Mlp, "lenet": LeNet, "cnn": Cnn}


def build_model(name: str, arguments: dict[str, Any], channels: int, size: tuple[int, int], classes: int) -> nn.Module:
    """A model with initial weights drawn from torch's global generator.

    Args:
        name: a key of ``ARCHITECTURES``, or a torchvision classification model.
        arguments: the section ``models.<name>``.
        channels: of the images.
        size: height and width of the images, in pixels.
        classes: number of classes.

    Raises:
        ValueError: there is no such model, or the images are too small for it.
    """
    if name not in ARCHITECTURES:
        from classifier.model import torchvision_zoo  # its import takes seconds

        return torchvision_zoo.build_model(name, arguments, channels, size, classes, supports_size)
    model = ARCHITECTURES[name](channels, size, classes, **arguments)
    if not supports_size(model, channels, size):
        raise ValueError(f"images of {size[0]}x{size[1]} pixels are too small for the model {name}")
    return model


@torch.no_grad()
def supports_size(model: nn.Module, channels: int, size: tuple[int, int]) -> bool:
    """Whether the model accepts images of this size. (The meta device would import the compiler: 1 s.)"""
    try:
        model.eval()(torch.zeros(1, channels, *size))
    except (RuntimeError, AssertionError, ValueError):
        return False
    finally:
        model.train()
    return True


@torch.no_grad()
def summarize_layers(model: nn.Module, shape: tuple[int, int, int]) -> list[tuple[str, str, str, int]]:
    """Name, type, output shape and number of parameters of each layer, in the order of the forward pass."""
    rows, hooks = [], []
    for name, module in model.named_modules():
        if not list(module.children()):

            def record(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
                output_shape = " x ".join(map(str, output.shape[1:])) if isinstance(output, torch.Tensor) else ""
                rows.append((name, type(module).__name__, output_shape, sum(p.numel() for p in module.parameters())))

            hooks.append(module.register_forward_hook(record))
    model.eval()(torch.zeros(1, *shape))
    model.train()
    for hook in hooks:
        hook.remove()
    return rows


def supports_batch_size(model: nn.Module, shape: tuple[int, int, int], count: int) -> bool:
    """Whether the model can train on a batch of ``count`` images: batch normalization needs two values per channel."""
    try:
        if count == 1:
            deepcopy(model).train()(torch.zeros(1, *shape))
    except ValueError:
        return False
    return True
