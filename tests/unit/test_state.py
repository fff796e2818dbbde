"""The state of a training run: its moving average, and early stopping."""

from types import SimpleNamespace
from typing import Any

from classifier.train.early_stopping import EarlyStopping
from classifier.train.state import TrainState

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def test_moving_average_equals_torchs_and_counts_batches_as_the_model() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    config: Any = SimpleNamespace(ema_decay=0.9, keep="last", patience=0)
    order: Any = None
    state = TrainState.create(model, torch.optim.SGD(model.parameters(), lr=1.0), order, config)
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(4):
        model(torch.randn(8, 3)).square().mean().backward()
        state.apply_gradients(max_norm=0)
        expected.update_parameters(model)
    averages = state.eval_model.state_dict()
    assert averages.pop("1.num_batches_tracked") == 4
    for name, average in averages.items():
        assert torch.equal(average, expected.module.state_dict()[name]), name
        assert not torch.equal(average, model.state_dict()[name]), name


def test_early_stopping_resumes_where_it_was() -> None:
    losses = [3.0, 2.0, 2.5, 2.6]
    model = nn.Linear(1, 1)
    straight, resumed = EarlyStopping("best", 3), EarlyStopping("best", 3)
    for epoch, loss in enumerate(losses, 1):
        nn.init.constant_(model.weight, epoch)
        straight.update(epoch, loss, model)
        resumed.update(epoch, loss, model)
        again = EarlyStopping("best", 3)
        again.load_state_dict(resumed.state_dict())
        resumed = again
        assert (resumed.best_epoch, resumed.should_stop) == (straight.best_epoch, straight.should_stop)
    resumed.restore_best(model)
    assert (model.weight.item(), resumed.best_epoch) == (2, 2)
