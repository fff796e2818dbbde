"""RMSprop of this project against PyTorch's."""

from typing import Any

import pytest
import torch
from torch import nn

from classifier.train.rmsprop import RMSprop


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_rmsprop_steps_as_torchs_does(momentum: float, weight_decay: float) -> None:
    torch.manual_seed(0)
    mine, theirs = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)
    theirs.load_state_dict(mine.state_dict())
    options: dict[str, Any] = {
        "lr": 0.01,
        "alpha": 0.9,
        "eps": 1e-8,
        "momentum": momentum,
        "weight_decay": weight_decay,
    }
    optimizers = (
        RMSprop([{"params": mine.parameters()}], **options),
        torch.optim.RMSprop(theirs.parameters(), **options),
    )
    for _ in range(5):
        images = torch.randn(4, 3, 8, 8)
        for model, optimizer in zip((mine, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
