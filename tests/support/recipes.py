"""Models and long runs that several tests use."""

import os
from pathlib import Path
from typing import Any

from tests.project import Project

ENDLESS: dict[str, Any] = {"train.epochs": 100_000, "train.batch_size": 4, "runtime.checkpoint_seconds": 1000}
SAVED = r"step (\d+) of \d+ is saved; the same command goes on from there\n"
MODEL_ARGUMENTS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [32]},
    "lenet": {},
    "cnn": {"stem": 4, "widths": [8, 16, 16]},
}
LONG: dict[str, Any] = {
    "train.epochs": 20, "train.model": "cnn", "models.cnn.stem": "whiten", "models.cnn.widths": [4, 8, 8],
    "train.ema_decay": 0.9, "train.augment.cutout_pixels": 4, "train.optimizer": "muon", "train.pruning.skip": 0.6,
    "runtime.checkpoint_seconds": 0,
}  # fmt: skip


def states(project: Project) -> list[Path]:
    """The folders of runs that left a state."""
    return sorted({path.parent for path in checkpoints(project)})


def checkpoints(project: Project) -> list[Path]:
    return list(project.root.glob("scratch/train-*/[!.]*.pt"))


def newer(project: Project, before: dict[Path, bytes]) -> bool:
    try:
        return any(path.read_bytes() != before.get(path) for path in checkpoints(project))
    except FileNotFoundError:  # just being replaced
        return False


def set_clock_back(project: Project) -> None:
    """As if the clock had just been set back by a day: what was written so far is of tomorrow."""
    for path in project.root.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            modified = path.stat().st_mtime + 86400
            os.utime(path, (modified, modified))
