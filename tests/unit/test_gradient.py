"""The gradient of a batch in parts: right, the same for any number of threads, and with BatchNorm's statistics."""

from copy import deepcopy
from typing import Any

from classifier.kernels import calls
from classifier.kernels.batch_norm import BatchNorm2d
from classifier.model import zoo
from classifier.train.gradient import PartsGradient, count_parts
from tests.support.recipes import MODEL_ARGUMENTS

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 28, 28, generator=generator), torch.arange(count) % 10, torch.ones(count)


def losses_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def own_model(name: str) -> nn.Module:
    return zoo.build_model(name, MODEL_ARGUMENTS[name], 1, (28, 28), 10)


def linear(*before: nn.Module) -> Any:
    return nn.Sequential(*before, nn.Flatten(), nn.Linear(784, 10))


def in_parts(model: nn.Module, batch_size: int, threads: int) -> PartsGradient:
    gradient = PartsGradient(model, losses_of, (), batch_size, threads)
    gradient.train_mode()
    return gradient


@pytest.mark.parametrize("name", ["mlp", "lenet"])
@pytest.mark.parametrize("count", [1, 2, 63, 130])
def test_gradient_without_batch_norm_is_that_of_the_whole_batch(name: str, count: int) -> None:
    model = own_model(name)
    inputs, targets, _ = batch(count)
    weights = torch.rand(count)
    losses, outputs = in_parts(model, 256, 2)(inputs, targets, weights, count)
    of_parts = [gradient.clone() for gradient in gradients(model)]
    model.zero_grad()
    expected = losses_of(model(inputs), targets)
    (expected * weights).sum().div(count).backward()
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(outputs, model(inputs))
    torch.testing.assert_close(of_parts, gradients(model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*MODEL_ARGUMENTS, "dropout"])
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    results = []
    for threads in (1, 2, 3, 4):
        torch.manual_seed(0)
        model = linear(nn.Dropout(0.5)) if name == "dropout" else own_model(name)
        gradient = in_parts(model, 200, threads)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            gradient(*batch(200), 200)
            optimizer.step()
        results.append(model.state_dict())
    for others in results[1:]:
        torch.testing.assert_close(others, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(1), nn.BatchNorm2d(1, momentum=None), BatchNorm2d(1)])
def test_running_statistics_are_the_mean_over_the_parts(layer: nn.BatchNorm2d, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_enabled", True)
    model, alone = linear(layer), nn.BatchNorm2d(1, momentum=layer.momentum)
    inputs, targets, weights = batch(4)  # few, to tell n from n - 1
    in_parts(model, 4, 2)(inputs, targets, weights, 4)
    means = []
    for part in inputs.tensor_split(count_parts(4)):
        copy = deepcopy(alone)
        copy(part)
        means.append(torch.stack([copy.state_dict()[name] for name in ("running_mean", "running_var")]))
    expected = torch.stack(means).mean(0)
    found = torch.stack([model[0].running_mean, model[0].running_var])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert model[0].num_batches_tracked == 1


def test_frozen_batch_norm_keeps_its_statistics_and_uses_them() -> None:
    model = linear(nn.BatchNorm2d(1))
    model[0].running_mean.fill_(0.5)
    gradient = PartsGradient(model, losses_of, [model[0]], 128, 2)
    gradient.train_mode()
    model[0].running_mean.fill_(0.25)  # as a checkpoint does that is loaded later
    inputs, targets, weights = batch(128)
    _, outputs = gradient(inputs, targets, weights, 128)
    torch.testing.assert_close(outputs, model(inputs))
    assert model[0].running_mean.item() == 0.25


def test_parameters_without_a_gradient_are_left_alone() -> None:
    model = linear()
    model.unused = nn.Parameter(torch.ones(3))
    model[1].bias.requires_grad_(False)
    in_parts(model, 64, 2)(*batch(64), 64)
    assert model.unused.grad is None
    assert model[1].bias.grad is None
    assert model[1].weight.grad is not None


def test_parts_are_large_enough_for_batch_normalization_of_a_vector() -> None:
    for size in range(2, 300):
        parts = torch.arange(size).tensor_split(count_parts(size))
        assert all(2 <= len(part) <= 65 for part in parts)
    assert count_parts(1) == 1


def test_tiny_numbers_do_not_slow_a_gradient_down() -> None:
    """A processor takes a hundred times as long for numbers below 1e-38, as dead filters have as gradients."""
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    tiny = torch.full((2, 1, 1, 1), 1e-40)
    gradient = PartsGradient(model, lambda outputs, targets: outputs.sum(1), (), 2, 1)
    gradient(tiny, torch.zeros(2), torch.ones(2), 2)
    assert model[1].weight.grad.item() == 0
    assert tiny.sum() > 0  # the thread that calls it has them
