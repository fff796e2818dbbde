"""The state of a training run: exactly what a checkpoint holds.

Data order, learning rate and every random draw are functions of the seed, the step and the losses that are part of the
state, so nothing else needs to be remembered.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from classifier.config.schema import Train
from classifier.kernels.linear import norm
from classifier.train.early_stopping import EarlyStopping
from classifier.train.meter import Meter, Row
from classifier.train.order import Order

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@dataclass
class TrainState:
    """The changing part of a training.

    Attributes:
        model: trained in place.
        optimizer: of the model's parameters.
        order: the batches, and with pruning the losses that choose them.
        early_stopping: the best epoch so far.
        meter: loss and accuracy of the epoch so far.
        ema: the exponential moving average of weights and statistics; None without one.
        ema_decay: of that average, by step.
        step: number of steps done.
        history: one row an epoch: ``epoch, lr, train_loss, train_acc``, with validation images ``val_loss, val_acc``.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: Order
    early_stopping: EarlyStopping
    meter: Meter = field(default_factory=Meter)
    ema: nn.Module | None = None
    ema_decay: float = 0.0
    step: int = 0
    history: list[Row] = field(default_factory=list)

    @classmethod
    def create(cls, model: nn.Module, optimizer: torch.optim.Optimizer, order: Order, config: Train) -> "TrainState":
        """The state before the first step."""
        ema = deepcopy(model) if config.ema_decay else None
        early_stopping = EarlyStopping(config.keep, config.patience)
        return cls(model, optimizer, order, early_stopping, ema=ema, ema_decay=config.ema_decay)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is validated and kept: the moving average, if there is one."""
        return self.model if self.ema is None else self.ema

    def apply_gradients(self, max_norm: float) -> None:
        """Take one step of the optimizer with the gradients that are set, all together of at most that norm; 0: any."""
        if max_norm:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            total = norm([parameter.grad for parameter in parameters if parameter.grad is not None])
            nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_ema()
        self.step += 1

    @torch.no_grad()
    def _update_ema(self) -> None:
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

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, text, and lists and dictionaries of them."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {"step": self.step, "history": self.history, **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.step, self.history = state["step"], state["history"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        names = ("model", "optimizer", "order", "early_stopping", "meter", "ema")
        return {name: part for name in names if (part := getattr(self, name)) is not None}
