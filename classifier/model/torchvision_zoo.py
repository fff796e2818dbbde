"""Any torchvision classification model by name, adapted to channels, image size and number of classes.

Most were designed for RGB images of 224x224. Only three things are adapted:

- the first convolution takes the images' channels, and for images under 64 pixels its stride is 1 instead of 2 or 4,
  since a map of 28x28 is already small (the usual change for CIFAR-sized images);
- the last layer has one output per class (``num_classes`` of the constructor);
- images that are still too small are enlarged to the first of ``SIZES`` that the model accepts.
"""

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision import models as torchvision_models

SMALL = 64  # pixels
SIZES = (32, 64, 128, 224, 299)  # heights and widths to which images are enlarged if they are too small


def build_model(
    name: str,
    arguments: dict[str, Any],
    channels: int,
    size: tuple[int, int],
    classes: int,
    takes: Callable[[nn.Module, int, tuple[int, int]], bool],
) -> nn.Module:
    """A model with initial weights drawn from torch's global generator; see ``zoo.build_model``.

    ``takes`` says whether a model accepts images with some channels and size.

    Raises:
        ValueError: torchvision has no such model, or the model does not accept the arguments or the image size.
    """
    known = torchvision_models.list_models(module=torchvision_models)
    if name not in known:
        raise ValueError(f"train.model: torchvision has no classification model {name!r}; it has {', '.join(known)}")
    options = {"num_classes": classes, **arguments}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}  # one output, like all others
    for side in (None, *SIZES):
        if name.startswith("vit_"):
            options["image_size"] = side or size[0]
        try:
            with warnings.catch_warnings(action="ignore"):
                model = _fit(torchvision_models.get_model(name, weights=None, **options), channels, size, side)
        except TypeError as error:
            raise ValueError(f"models.{name}: {error}") from None
        except (RuntimeError, AssertionError, ValueError):
            continue  # the constructor does not accept this size
        if takes(model, channels, size):
            return model
    raise ValueError(
        f"train.model: {name} cannot take images of {size[0]}x{size[1]} pixels, even enlarged to {SIZES[-1]}"
    )


def _fit(model: nn.Module, channels: int, size: tuple[int, int], side: int | None) -> nn.Module:
    """Replace the first convolution, and enlarge the images to ``side`` x ``side`` pixels unless it is None."""
    name, first = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    overlaps = first.kernel_size > first.stride  # otherwise it cuts patches, and later layers expect their number
    small = max(size) < SMALL and side is None
    fitted = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        1 if small and overlaps else first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    model.set_submodule(name, fitted)
    return model if side is None else nn.Sequential(nn.Upsample((side, side), mode="bilinear"), model)
