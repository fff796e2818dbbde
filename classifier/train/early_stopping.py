"""Early stopping, and the weights of the best epoch."""

from typing import Any

from torch import nn

State = dict[str, Any]


class EarlyStopping:
    """Watches the validation loss: keeps the weights of the best epoch, and counts the epochs since.

    Args:
        keep: ``last`` or ``best``: the epoch whose weights the run keeps.
        patience: epochs without a lower validation loss before the run stops; 0: it never does.

    Attributes:
        should_stop: whether the patience is used up.
    """

    def __init__(self, keep: str, patience: int):
        self.keep, self.patience = keep, patience
        self.best_loss = float("inf")
        self.best_epoch = 0
        self.best_weights: State | None = None
        self.should_stop = False

    def update(self, epoch: int, validation_loss: float, model: nn.Module) -> None:
        """Take note of an epoch."""
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, epoch
            if self.keep == "best":
                self.best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.should_stop = self.patience > 0 and epoch - self.best_epoch >= self.patience

    def restore_best(self, model: nn.Module) -> None:
        """Give the model the weights of the best epoch, if they were kept."""
        if self.best_weights is not None:
            model.load_state_dict(self.best_weights)

    def state_dict(self) -> State:
        """For a checkpoint."""
        return {
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "should_stop": self.should_stop,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a checkpoint."""
        vars(self).update(state)
