"""The trained model as one safetensors file: weights, and a config as JSON in the metadata."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from classifier.data.dataset import AnnotatedImages
from classifier.errors import StageError, shorten
from classifier.model import zoo

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

KEY = "model"  # one metadata key only: safetensors writes several in random order


@dataclass(frozen=True)
class ModelConfig:
    """Everything beside the weights that is needed to rebuild the model and preprocess its input.

    Attributes:
        architecture: a key of ``zoo.ARCHITECTURES``, or a torchvision model.
        arguments: of its constructor, after the three that follow from the data.
        class_names: names of classes 0, 1, ...
        channels, height, width: of the images.
        mean, std: of the training pixels per channel, on the scale 0 to 1.
        trained_with: the params of `train`, by section.
        temperature: divides the logits for calibrated probabilities; 1 if none was fitted.
    """

    architecture: str
    arguments: dict[str, Any]
    class_names: list[str]
    channels: int
    height: int
    width: int
    mean: list[float]
    std: list[float]
    trained_with: dict[str, Any]
    temperature: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.channels, self.height, self.width

    def build(self) -> nn.Module:
        """The architecture, with newly initialized weights."""
        size = (self.height, self.width)
        return zoo.build_model(self.architecture, self.arguments, self.channels, size, len(self.class_names))

    def check_fits(self, path: Path, data: AnnotatedImages) -> None:
        """Refuse data that the model at ``path`` was not trained for.

        Raises:
            StageError: the classes or the image shape differ.
        """
        if data.class_names != self.class_names:
            mine, other = shorten(self.class_names), shorten(data.class_names)
            raise StageError(f"{path}: was trained for the classes {mine}; the annotations have {other}")
        if data.shape != self.shape:
            wanted, got = ("x".join(map(str, size)) for size in (self.shape, data.shape))
            raise StageError(f"{path}: takes images of {wanted} (channels x height x width); the images are {got}")


def normalization(model_config: ModelConfig) -> tuple[list[float], list[float]]:
    """Scale and shift of each channel: the network's input is ``pixel * scale + shift``."""
    deviations = [max(std, 1 / 255) for std in model_config.std]  # of a constant channel it is 0
    shifts = [-mean / std for mean, std in zip(model_config.mean, deviations, strict=True)]
    return [1 / (255 * std) for std in deviations], shifts


class Normalize(nn.Module):
    """Maps pixels, ``(N, C, H, W) uint8``, to the network's input: float32 with mean 0 and standard deviation 1.

    Training, evaluation and the exported file all use it.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model_config: ModelConfig):
        super().__init__()
        scale, shift = (torch.tensor(values)[:, None, None] for values in normalization(model_config))
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.shifts = any(model_config.mean)  # scaling to 0..1 needs no addition

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalize ``(N, C, H, W)`` uint8 to float32."""
        scaled = pixels.float().mul_(self.scale)
        return scaled.add_(self.shift) if self.shifts else scaled


def save(path: Path, model: nn.Module, model_config: ModelConfig) -> None:
    """Write weights and config; the bytes depend on nothing else."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={KEY: json.dumps(asdict(model_config), sort_keys=True)})


def load(path: Path) -> tuple[nn.Module, ModelConfig]:
    """Rebuild a model, in evaluation mode.

    Raises:
        StageError: the file is missing, not safetensors, has no config, or its weights do not fit the architecture.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `dvc repro train` makes it") from None
    except SafetensorError as error:
        raise StageError(f"{path}: not a safetensors file ({error}); `dvc repro train` makes one") from None
    try:
        model_config = ModelConfig(**json.loads(metadata[KEY]))
        model = model_config.build()
    except (KeyError, TypeError, ValueError) as error:
        raise StageError(f"{path}: its metadata do not describe a model of this pipeline ({error})") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise StageError(
            f"{path}: the weights do not fit the architecture {model_config.architecture}: {first:.300}"
        ) from None
    return model.eval(), model_config
