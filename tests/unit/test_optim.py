"""Optimizers and schedules of the learning rate."""

import io
from typing import Any

from classifier import yaml_file
from classifier.config.variants import NOT_PORTABLE, Optimizers
from classifier.model import zoo
from classifier.train.muon import Muon, orthogonal
from classifier.train.optim import Schedule, make_optimizer
from tests.project import REPOSITORY
from tests.support import portable_run

import numpy as np
import pytest
import torch
from torch import nn

OPTIONS = yaml_file.load((REPOSITORY / "params.yaml").read_text())["optimizers"]


def test_schedules_rise_and_fall_as_documented() -> None:
    every = {"step_size": 3, "gamma": 0.1}
    for name in ("constant", "step", "cosine", "linear"):
        rates = [Schedule(name, every, 0.2, range(0, 101, 10))(step) for step in range(100)]
        np.testing.assert_allclose(rates[:20], np.arange(1, 21) / 20)
        assert max(rates) == 1
        assert rates[-1] == {"constant": 1, "step": pytest.approx(0.001)}.get(name, pytest.approx(0.01, abs=0.012))
        assert Schedule(name, every, 0, [0, 10])(0) == pytest.approx(1, rel=0.1)
    # linear falls in a straight line, step in steps of three epochs
    falls = np.diff([Schedule("linear", {}, 0.2, range(0, 101, 10))(step) for step in range(20, 100)])
    np.testing.assert_allclose(falls, falls[0])
    steps = [Schedule("step", every, 0, range(0, 101, 10))(step) for step in (0, 29, 30, 59, 60)]
    np.testing.assert_allclose(steps, [1, 1, 0.1, 0.1, 0.01])


def test_every_optimizer_is_proven_portable_or_refused() -> None:
    """``e2e/test_emulated.py`` trains those of ``portable_run`` on other processors."""
    proven = {name for names in portable_run.OPTIMIZERS.values() for name in names}
    assert proven | NOT_PORTABLE["optimizer"] == {*Optimizers.model_fields}


def test_weight_decay_exempts_biases_and_normalization() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    options = {"lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.5}
    decayed, spared = make_optimizer("sgd", options, model).param_groups
    assert (decayed["weight_decay"], [p.ndim for p in decayed["params"]]) == (0.5, [4])
    assert (spared["weight_decay"], [p.ndim for p in spared["params"]]) == (0, [1, 1, 1])


def test_muon_orthogonalizes_filters_only() -> None:
    singular = torch.linalg.svdvals(orthogonal(torch.randn(8, 40)))
    assert 0.6 < singular.min() < singular.max() < 1.3
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 3))
    options = {"lr": 0.1, "momentum": 0.6, "sgd_lr": 0.2, "sgd_momentum": 0.9, "weight_decay": 5e-4}
    optimizer = make_optimizer("muon", options, model)
    shapes = [[tuple(p.shape) for p in group["params"] if p.ndim > 1] for group in optimizer.param_groups]
    assert shapes == [[(6, 4, 3, 3)], [(4, 1, 2, 2), (3, 6)], []]


def forward_and_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()


@pytest.mark.usefixtures("one_thread")
def test_a_thread_of_its_own_changes_no_bit() -> None:
    results = []
    for in_thread in (False, True):
        torch.manual_seed(0)
        model = zoo.build_model("cnn", {"stem": 4, "widths": [8, 8]}, 1, (12, 12), 10)
        optimizer = make_optimizer("muon", OPTIONS["muon"], model, in_thread)
        for _ in range(3):
            forward_and_step(model, optimizer, torch.randn(8, 1, 12, 12))
        results.append(model.state_dict())
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_muon_equals_sgd_for_other_weights() -> None:
    mine, theirs = nn.Linear(5, 4), nn.Linear(5, 4)
    theirs.load_state_dict(mine.state_dict())
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    muon = Muon([{"params": list(mine.parameters()), **options}])
    sgd = torch.optim.SGD(theirs.parameters(), nesterov=True, **options)
    for _ in range(5):
        batch = torch.randn(8, 5)
        forward_and_step(mine, muon, batch)
        forward_and_step(theirs, sgd, batch)
    torch.testing.assert_close(mine.weight, theirs.weight)


@pytest.mark.parametrize("name", Optimizers.model_fields)
def test_optimizer_resumes_to_the_same_bits(name: str) -> None:
    batches = torch.randn(6, 16, 1, 28, 28)

    def start() -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = zoo.build_model("lenet", {}, 1, (28, 28), 10)
        return model, make_optimizer(name, OPTIONS[name], model)

    whole, first, second = start(), start(), start()
    for batch in batches:
        forward_and_step(*whole, batch)
    for batch in batches[:3]:
        forward_and_step(*first, batch)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    for batch in batches[3:]:
        forward_and_step(*second, batch)
    torch.testing.assert_close(second[0].state_dict(), whole[0].state_dict(), rtol=0, atol=0)
