"""Starting from weights that exist, and keeping some of them as they are."""

import fnmatch
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stages.lib.runner.errors import StageError

NONE = "none"  # the file in models/pretrained/ that stands for fresh weights


def take(model: nn.Module, path: Path) -> dict[str, list[str]]:
    """Copy every tensor of a safetensors file whose name and shape the model has.

    Returns:
        Names by what became of them: taken; missing in the file; unexpected, which the model does not have;
        misshaped, with both shapes.

    Raises:
        StageError: the file is missing or no safetensors file, or no tensor of it fits.
    """
    try:
        theirs = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{path}: no readable safetensors file ({error})") from None
    mine = model.state_dict()
    fits = {name for name in mine.keys() & theirs.keys() if mine[name].shape == theirs[name].shape}
    if not fits:
        raise StageError(f"{path}: no tensor fits the model; train.warm_start: {NONE} starts from fresh weights")
    with torch.no_grad():
        for name in fits:
            mine[name].copy_(theirs[name])
    return {
        "taken": [name for name in mine if name in fits],
        "missing": [name for name in mine if name not in theirs],
        "unexpected": sorted(theirs.keys() - mine.keys()),
        "misshaped": [
            f"{name} ({_shape(theirs[name])}, not {_shape(mine[name])})"
            for name in mine
            if name in theirs and name not in fits
        ],
    }


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def freeze(model: nn.Module, patterns: list[str]) -> list[nn.Module]:
    """Let the tensors whose names match a pattern (``*`` and ``?`` as in a shell) stay as they are.

    Returns:
        The modules that must stay in evaluation mode, since their running statistics are frozen.

    Raises:
        StageError: a pattern matches nothing, or nothing is left to train.
    """
    names = list(model.state_dict())
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise StageError(f"train.freeze: {pattern!r} matches no tensor; the model has {', '.join(names)}")

    def frozen(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen(name))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise StageError("train.freeze: leaves nothing to train")
    buffers = {name.rpartition(".")[0] for name, _ in model.named_buffers() if frozen(name)}
    return [module for name, module in model.named_modules() if name in buffers]
