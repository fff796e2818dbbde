"""The temperature: the best one, and one where there is none."""

import math

from classifier.evaluate import metrics
from classifier.train.calibration import fit_temperature

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

IMAGES, CLASSES = 6000, 7


@pytest.mark.parametrize("scale", [0.3, 2.0])  # too modest, and too sure
def test_temperature_of_many_images_minimizes_the_loss(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(IMAGES, CLASSES, generator=generator)
    random = torch.randint(CLASSES, (IMAGES,), generator=generator)
    labels = torch.where(torch.rand(IMAGES, generator=generator) < 0.6, logits.argmax(1), random)
    inverse = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([inverse], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(logits.double() * inverse, labels)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = fit_temperature(logits.numpy(), labels.numpy())
    assert found == pytest.approx(1 / inverse.item(), rel=0.01)  # the prior is weak


@pytest.mark.parametrize("classes", [2, 10])
def test_few_images_that_are_all_right_do_not_make_the_model_sure(classes: int) -> None:
    """Without a prior, the best temperature is 0: all probabilities are then 0 or 1."""
    labels = torch.arange(16) % classes
    hesitant = 2.0 * torch.eye(classes)[labels]  # 88 % of two classes, 45 % of ten
    temperature = fit_temperature(hesitant.numpy(), labels.numpy())
    assert 0.3 < temperature < 1
    assert (hesitant / temperature).softmax(1).max() < 0.98


def test_temperature_is_finite_for_perfect_and_wrong_labels() -> None:
    """Labels that are always right would have a temperature of 0, and always wrong ones of infinity."""
    logits = np.eye(3, dtype=np.float32)
    for labels in (np.arange(3), np.array([1, 2, 0])):
        temperature = fit_temperature(logits, labels)
        assert math.isfinite(metrics.mean_loss(logits, labels, temperature))
