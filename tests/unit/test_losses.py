"""Losses against torch's."""

from classifier.config.variants import Losses
from classifier.train.losses import make_loss

import pytest
import torch
from torch import nn


def test_losses_equal_torch() -> None:
    logits, labels = torch.randn(20, 5), torch.randint(0, 5, (20,))
    cross_entropy = nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(make_loss("nll", {}, 5).training(logits, labels).mean(), cross_entropy)
    smoothed = make_loss("cross_entropy", {"label_smoothing": 0.3}, 5)
    torch.testing.assert_close(
        smoothed.training(logits, labels).mean(), nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    )
    torch.testing.assert_close(smoothed.validation(logits, labels).mean(), cross_entropy)
    mse = make_loss("mse", {}, 5)
    assert mse.target_transform
    targets = torch.stack([mse.target_transform(int(label)) for label in labels])
    assert torch.equal(targets, nn.functional.one_hot(labels, 5).float())
    torch.testing.assert_close(mse.training(logits, targets).mean(), (logits.softmax(1) - targets).square().mean())


@pytest.mark.parametrize("name", Losses.model_fields)
def test_chance_loss_is_that_of_equal_probabilities(name: str) -> None:
    loss = make_loss(name, {"label_smoothing": 0.1}, 7)
    labels = torch.arange(7)
    targets = torch.stack([loss.target_transform(int(x)) for x in labels]) if loss.target_transform else labels
    assert loss.training(torch.zeros(7, 7), targets).mean().item() == pytest.approx(loss.chance_loss)
