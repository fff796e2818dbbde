"""Initial weights from a file, and freezing some of them."""

import fnmatch
import logging
from pathlib import Path

from classifier.errors import ParamsError, StageError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

NONE = "none"  # the file in models/pretrained/ that means fresh weights


logger = logging.getLogger(__name__)


def load_initial_checkpoint(model: nn.Module, path: Path) -> None:
    """Load the tensors that fit, and log the others; a file that is called ``none`` stands for fresh weights."""
    if path.name == NONE:
        return
    names = load_pretrained(model, path)
    logger.info(f"initial weights from {path}: {len(names['loaded'])} tensors loaded")
    for kind in ("missing", "unexpected", "misshaped"):
        if names[kind]:
            logger.info(f"  {kind}: {', '.join(names[kind])}")


def load_pretrained(model: nn.Module, path: Path) -> dict[str, list[str]]:
    """Copy every tensor of a safetensors file whose name and shape the model has.

    Returns:
        Names of tensors: loaded; missing in the file; unexpected, which the model does not have; misshaped, with both
        shapes.

    Raises:
        StageError: the file is missing or not a safetensors file, or no tensor of it fits.
    """
    try:
        loaded = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{path}: not a readable safetensors file ({error})") from None
    own = model.state_dict()
    fits = {name: tensor for name, tensor in loaded.items() if name in own and own[name].shape == tensor.shape}
    if not fits:
        raise StageError(f"{path}: no tensor fits the model; train.initial_checkpoint: {NONE} trains from scratch")
    model.load_state_dict(fits, strict=False)
    return {
        "loaded": [name for name in own if name in fits],
        "missing": [name for name in own if name not in loaded],
        "unexpected": sorted(loaded.keys() - own.keys()),
        "misshaped": [
            f"{name} ({_shape(loaded[name])}, not {_shape(own[name])})"
            for name in own
            if name in loaded and name not in fits
        ],
    }


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def freeze(model: nn.Module, patterns: list[str]) -> list[nn.Module]:
    """Do not train the tensors whose names match a pattern (``*`` and ``?`` as in a shell).

    Returns:
        The modules that must stay in evaluation mode, since their running statistics are frozen.

    Raises:
        ParamsError: a pattern matches nothing, or nothing is left to train.
    """
    names = list(model.state_dict())
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ParamsError(f"train.freeze: {pattern!r} matches no tensor; the model has {', '.join(names)}")

    def frozen(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    for name, parameter in model.named_parameters():
        if frozen(name):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ParamsError("train.freeze: leaves nothing to train")
    buffers = {name.rpartition(".")[0] for name, _ in model.named_buffers() if frozen(name)}
    return [module for name, module in model.named_modules() if name in buffers]
