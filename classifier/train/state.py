"""The state of a training run: exactly what a checkpoint holds.

Data order, learning rate and every random draw are functions of the seed, the step and the losses that are part of the
state, so nothing else needs to be remembered.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from classifier.train.early_stopping import EarlyStopping

if TYPE_CHECKING:
    from classifier.config import Train

Row = dict[str, float]


@dataclass
class TrainState:
    """What changes while a model is trained.

    Attributes:
        model: trained in place.
        optimizer: of the model's parameters.
        early_stopping: the best epoch so far.
        ema: the exponential moving average of weights and statistics; None without one.
        ema_decay: of that average, by step.
        step: how many steps are done.
        loss_sum, correct_sum: over the images of the epoch so far, by their weights.
        losses: of each training image when it was last seen, ``(N,) float32``, on the device of the model; None if no
            epoch depends on them.
        epoch_losses: as they were when the epoch began, on the CPU.
        history: one row an epoch: ``epoch, lr, train_loss, train_acc``, with validation images ``val_loss, val_acc``.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    early_stopping: EarlyStopping
    ema: nn.Module | None = None
    ema_decay: float = 0.0
    step: int = 0
    loss_sum: float = 0.0
    correct_sum: float = 0.0
    losses: torch.Tensor | None = None
    epoch_losses: torch.Tensor | None = None
    history: list[Row] = field(default_factory=list)

    @classmethod
    def create(cls, model: nn.Module, optimizer: torch.optim.Optimizer, config: "Train") -> "TrainState":
        """The state before the first step.

        Args:
            model: on its device, with its initial weights.
            optimizer: of its parameters.
            config: the section ``train`` of params.yaml.
        """
        ema = deepcopy(model) if config.ema_decay else None
        return cls(model, optimizer, EarlyStopping(config.keep, config.patience), ema, config.ema_decay)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is validated and kept: the moving average, if there is one."""
        return self.model if self.ema is None else self.ema

    def add(self, loss_sum: float, correct_sum: float) -> None:
        """Count the images of one step."""
        self.loss_sum += loss_sum
        self.correct_sum += correct_sum

    @torch.no_grad()
    def update_ema(self) -> None:
        """Let the moving average follow the model; at the first step it begins as the model.

        ``AveragedModel`` of PyTorch counts in a tensor and looks at it, so a GPU would have to be waited for.
        """
        if self.ema is None:
            return
        pairs = zip(
            chain(self.ema.parameters(), self.ema.buffers()),
            chain(self.model.parameters(), self.model.buffers()),
            strict=True,
        )
        floats = []
        for average, value in pairs:
            if self.step and value.is_floating_point():
                floats.append((average, value))
            else:
                average.copy_(value)
        if floats:
            get_ema_multi_avg_fn(self.ema_decay)(*map(list, zip(*floats, strict=True)), self.step)

    def end_epoch(self, row: Row) -> None:
        """Add a row to the history and begin a new epoch."""
        self.history.append(row)
        self.loss_sum, self.correct_sum = 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, text, and lists and dictionaries of them."""
        names = ("step", "loss_sum", "correct_sum", "losses", "epoch_losses", "history")
        plain = {name: getattr(self, name) for name in names}
        return plain | {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        parts = self._parts()
        for name, value in state.items():
            if name in parts:
                parts[name].load_state_dict(value)
            else:
                setattr(self, name, value)

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "early_stopping": self.early_stopping}
        return parts | ({} if self.ema is None else {"ema": self.ema})
