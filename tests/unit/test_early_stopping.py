"""Early stopping."""

from classifier.train.early_stopping import EarlyStopping

from torch import nn


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
