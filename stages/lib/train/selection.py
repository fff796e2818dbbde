"""Which epoch's weights a run keeps, and when it may stop."""

from typing import Any

from torch import nn

State = dict[str, Any]


class Selection:
    """Watches the validation loss: remembers the weights of the best epoch, and counts the epochs since.

    Args:
        keep: last or best.
        patience: epochs without a lower validation loss before the run stops; 0: it never does.
    """

    def __init__(self, keep: str, patience: int):
        self.keep, self.patience = keep, patience
        self.best_loss = float("inf")
        self.best_epoch = 0
        self.best_weights: State | None = None
        self.exhausted = False  # the patience

    def watch(self, epoch: int, validation_loss: float, model: nn.Module) -> None:
        """Note one epoch."""
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, epoch
            if self.keep == "best":
                self.best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.exhausted = self.patience > 0 and epoch - self.best_epoch >= self.patience

    def apply(self, model: nn.Module) -> None:
        """Give the model the weights to keep."""
        if self.best_weights is not None:
            model.load_state_dict(self.best_weights)

    def state_dict(self) -> State:
        """What a checkpoint must hold."""
        return {"loss": self.best_loss, "epoch": self.best_epoch, "weights": self.best_weights, "end": self.exhausted}

    def load_state_dict(self, state: State) -> None:
        """Go on from a checkpoint."""
        self.best_loss, self.best_epoch = state["loss"], state["epoch"]
        self.best_weights, self.exhausted = state["weights"], state["end"]
