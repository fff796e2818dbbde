"""TensorBoard event files of a run, to watch it there: ``tensorboard --logdir logs``."""

import shutil
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn


class TensorBoardLogger:
    """Scalars by epoch, and the model's graph. A context manager: leaving it closes the files.

    Args:
        folder: of the run; what a killed run left there is replaced.
        model: in any mode; it is not changed.
        shape: channels, height and width of its input.
    """

    def __init__(self, folder: Path, model: nn.Module, shape: tuple[int, int, int]):
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))
        self.written = 0
        self.writer.add_graph(deepcopy(model).cpu().eval(), torch.zeros(1, *shape))

    def update(self, history: list[dict[str, float]]) -> None:
        """Write the rows that are not written yet."""
        for row in history[self.written :]:
            for key, value in row.items():
                if key != "epoch":
                    split, _, metric = key.rpartition("_")
                    self.writer.add_scalar(f"{metric}/{split}" if split else metric, value, int(row["epoch"]))
        self.written = len(history)
        self.writer.flush()

    def __enter__(self) -> "TensorBoardLogger":
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()
