"""The models that ``train.model`` can name, including torchvision's. All map normalized images to logits.

Input ``(N, C, H, W) float32``, output ``(N, classes) float32``. The constructor takes three arguments that follow from
the data, then those in the section ``models.<name>`` of params.yaml.
"""

from copy import deepcopy
from typing import Any, Literal

from classifier.kernels.batch_norm import BatchNorm2d
from classifier.kernels.convolution import Conv2d
from classifier.kernels.linear import Linear

import torch
from torch import nn

STEM_SIDE = 2  # pixels


class Mlp(nn.Sequential):
    """A multilayer perceptron; ``hidden: [512, 512]`` is the network of PyTorch's quickstart tutorial."""

    def __init__(self, channels: int, size: tuple[int, int], classes: int, hidden: list[int]):
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = channels * size[0] * size[1]
        for width in hidden:
            layers += [Linear(inputs, width), nn.ReLU()]
            inputs = width
        super().__init__(*layers, Linear(inputs, classes))


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
            Linear(16 * height * width, 120), nn.ReLU(),
            Linear(120, 84), nn.ReLU(),
            Linear(84, classes),
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
        stem: channels of the first convolution, which is trained; or "whiten": see ``set_stem``.
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
            layers += [BatchNorm2d(width), nn.ReLU()]
            inputs, side = width, side // 2
        layers += [Conv2d(inputs, inputs, 3, padding=0 if side >= 3 else 1, bias=False)]
        layers += [BatchNorm2d(inputs), nn.ReLU()]
        super().__init__(*layers, GlobalMaxPool(), nn.Flatten(), Linear(inputs, classes))
        if self.has_whitening_stem:
            next(self.parameters()).requires_grad_(False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The logits; a convolution and the pooling behind it are one step."""
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, Conv2d) and isinstance(layers[0], nn.MaxPool2d):
                maps = layer.pooled(maps)
                del layers[0]
            else:
                maps = layer(maps)
        return maps

    @torch.no_grad()
    def set_stem(self, filters: torch.Tensor) -> None:
        """Set the filters of a whitening stem, see ``whitening.filters``; they are not trained.

        Each is there twice, with both signs, so that the ReLU loses nothing. The gradient of the first layer, which is
        on the largest maps, need not be computed.
        """
        next(self.parameters()).copy_(torch.cat([filters, -filters]))


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
