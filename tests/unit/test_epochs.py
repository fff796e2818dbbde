"""Which images an epoch has: each once, or, with pruning, fewer easy ones that count more."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from classifier.train.epochs import Epochs

LABELS = torch.arange(1000) % 10
LOSSES = torch.linspace(3, 0, 1000)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
EASIEST = LOSSES.argsort()[:600]


def config(**changes: Any) -> Any:
    pruning = {"easy": 0.6, "skip": 0.5, "between": [0.2, 0.9], **changes.pop("pruning", {})}
    plain = {"epochs": 10, "batch_size": 64, "shuffle": True, "seed": 0, "class_balance": "as_is"}
    return SimpleNamespace(**{**plain, **changes, "pruning": SimpleNamespace(**pruning)})


def test_without_pruning_each_image_is_there_once_in_an_order_of_the_epoch() -> None:
    epochs = Epochs(config(pruning={"skip": 0}), LABELS)
    assert epochs.first_steps == [*range(0, 161, 16)]
    assert not epochs.needs_losses
    first, second = (epochs.draw(epoch, None) for epoch in (0, 1))
    assert first.indices.sort().values.tolist() == second.indices.sort().values.tolist() == [*range(1000)]
    assert not torch.equal(first.indices, second.indices)
    assert first.weights.tolist() == [1] * 1000
    unshuffled = Epochs(config(shuffle=False, pruning={"skip": 0}), LABELS).draw(3, None)
    assert unshuffled.indices.tolist() == [*range(1000)]


def test_pruned_epoch_leaves_out_easy_images_and_the_other_easy_ones_count_more() -> None:
    epochs = Epochs(config(), LABELS)
    assert epochs.needs_losses
    steps = [after - before for before, after in zip(epochs.first_steps, epochs.first_steps[1:], strict=False)]
    assert steps == [16, 16, *[10] * 7, 16]  # 700 images make ten full batches
    for epoch in (0, 1, 9):
        assert len(epochs.draw(epoch, LOSSES).indices) == 1000
    drawn = epochs.draw(4, LOSSES)
    assert len(drawn.indices) == len(drawn.indices.unique()) == 640
    is_easy = torch.isin(drawn.indices, EASIEST)
    assert (~is_easy).sum() == 400  # all hard ones
    assert drawn.weights[~is_easy].unique().tolist() == [1]
    assert drawn.weights[is_easy].unique().tolist() == [600 / 240]
    assert drawn.weights.sum() == 1000


def test_pruning_is_fair_and_follows_from_seed_epoch_and_losses() -> None:
    epochs = Epochs(config(epochs=1000), LABELS)
    sums = torch.zeros(1000)
    for epoch in range(200, 900):
        drawn = epochs.draw(epoch, LOSSES)
        sums[drawn.indices] += drawn.weights
    assert sums.sub(700).abs().max() < 150  # each image counts as much as another: 5 deviations are 162
    again = Epochs(config(epochs=1000), LABELS).draw(500, LOSSES.clone())
    assert torch.equal(again.indices, epochs.draw(500, LOSSES).indices)
    for other in (epochs.draw(501, LOSSES), epochs.draw(500, LOSSES.flip(0))):
        assert not torch.equal(again.indices, other.indices)
    assert not torch.equal(again.indices, Epochs(config(epochs=1000, seed=1), LABELS).draw(500, LOSSES).indices)


def test_images_that_were_never_seen_are_not_easy() -> None:
    unseen = torch.full((1000,), torch.inf)
    unseen[EASIEST] = LOSSES[EASIEST]
    drawn = Epochs(config(), LABELS).draw(4, unseen)
    assert torch.isin(torch.isinf(unseen).nonzero().flatten(), drawn.indices).all()


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (70, {}),  # full batches would be fewer than the easy ones allow
        (1000, {"pruning": {"easy": 0.0}}),
        (1000, {"pruning": {"between": [0.5, 0.5]}}),
    ],
)
def test_pruning_that_leaves_nothing_to_prune_is_none(count: int, changes: dict[str, Any]) -> None:
    epochs = Epochs(config(**changes), LABELS[:count])
    assert not epochs.needs_losses
    assert epochs.draw(4, None).weights.tolist() == [1] * count


def test_equal_class_balance_draws_each_class_equally_often() -> None:
    labels = torch.tensor([0] * 180 + [1] * 20)
    losses = torch.rand(200)
    for changes, expected in (({"skip": 0}, 200), ({}, 140)):
        epochs = Epochs(config(batch_size=20, class_balance="equal", pruning=changes), labels)
        drawn = [epochs.draw(epoch, losses) for epoch in range(2, 9)]
        assert [len(epoch.indices) for epoch in drawn] == [expected] * 7
        rare = torch.cat([epoch.weights[labels[epoch.indices] == 1] for epoch in drawn]).sum() / 1400
        assert 0.42 < rare < 0.58  # a tenth of the images, half of the draws
