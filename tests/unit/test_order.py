"""The images of an epoch: each once, or, with pruning, fewer easy ones that count more."""

from types import SimpleNamespace
from typing import Any

from classifier.train.order import Order

import pytest
import torch

LABELS = torch.arange(1000) % 10
LOSSES = torch.linspace(3, 0, 1000)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
EASIEST = LOSSES.argsort()[:600]


def order(labels: torch.Tensor = LABELS, pruning: dict[str, Any] | None = None, **changes: Any) -> Order:
    plain = {"epochs": 10, "batch_size": 64, "shuffle": True, "seed": 0, "class_balance": "as_is"}
    easy = {"easy": 0.6, "skip": 0.5, "between": [0.2, 0.9]}
    config: Any = SimpleNamespace(**{**plain, **changes}, pruning=SimpleNamespace(**{**easy, **(pruning or {})}))
    images: Any = SimpleNamespace(labels=labels)
    return Order(config, images, torch.device("cpu"))


def test_without_pruning_each_image_is_there_once_in_an_order_of_the_epoch() -> None:
    plain = order(pruning={"skip": 0})
    assert plain.first_steps == [*range(0, 161, 16)]
    assert plain.losses is None
    (first, weights), (second, _) = (plain.draw(epoch, None) for epoch in (0, 1))
    assert first.sort().values.tolist() == second.sort().values.tolist() == [*range(1000)]
    assert not torch.equal(first, second)
    assert weights.tolist() == [1] * 1000
    unshuffled, _ = order(shuffle=False, pruning={"skip": 0}).draw(3, None)
    assert unshuffled.tolist() == [*range(1000)]


def test_pruned_epoch_leaves_out_easy_images_and_the_other_easy_ones_count_more() -> None:
    pruned = order()
    assert pruned.losses is not None
    steps = [after - before for before, after in zip(pruned.first_steps, pruned.first_steps[1:], strict=False)]
    assert steps == [16, 16, *[10] * 7, 16]  # 700 images make ten full batches
    for epoch in (0, 1, 9):
        assert len(pruned.draw(epoch, LOSSES)[0]) == 1000
    indices, weights = pruned.draw(4, LOSSES)
    assert len(indices) == len(indices.unique()) == 640
    is_easy = torch.isin(indices, EASIEST)
    assert (~is_easy).sum() == 400  # all hard ones
    assert weights[~is_easy].unique().tolist() == [1]
    assert weights[is_easy].unique().tolist() == [600 / 240]
    assert weights.sum() == 1000


def test_pruning_is_fair_and_follows_from_seed_epoch_and_losses() -> None:
    pruned = order(epochs=1000)
    sums = torch.zeros(1000)
    for epoch in range(200, 900):
        indices, weights = pruned.draw(epoch, LOSSES)
        sums[indices] += weights
    assert sums.sub(700).abs().max() < 150  # each image counts as much as another: 5 deviations are 162
    again, _ = order(epochs=1000).draw(500, LOSSES.clone())
    assert torch.equal(again, pruned.draw(500, LOSSES)[0])
    for other, _ in (pruned.draw(501, LOSSES), pruned.draw(500, LOSSES.flip(0))):
        assert not torch.equal(again, other)
    assert not torch.equal(again, order(epochs=1000, seed=1).draw(500, LOSSES)[0])


def test_images_that_were_never_seen_are_not_easy() -> None:
    unseen = torch.full((1000,), torch.inf)
    unseen[EASIEST] = LOSSES[EASIEST]
    indices, _ = order().draw(4, unseen)
    assert torch.isin(torch.isinf(unseen).nonzero().flatten(), indices).all()


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (70, {}),  # full batches would be fewer than the easy ones allow
        (1000, {"pruning": {"easy": 0.0}}),
        (1000, {"pruning": {"between": [0.5, 0.5]}}),
    ],
)
def test_pruning_that_leaves_nothing_to_prune_is_none(count: int, changes: dict[str, Any]) -> None:
    plain = order(LABELS[:count], **changes)
    assert plain.losses is None
    assert plain.draw(4, None)[1].tolist() == [1] * count


def test_equal_class_balance_draws_each_class_equally_often() -> None:
    labels = torch.tensor([0] * 180 + [1] * 20)
    losses = torch.rand(200)
    for changes, expected in (({"skip": 0}, 200), ({}, 140)):
        balanced = order(labels, batch_size=20, class_balance="equal", pruning=changes)
        drawn = [balanced.draw(epoch, losses) for epoch in range(2, 9)]
        assert [len(indices) for indices, _ in drawn] == [expected] * 7
        rare = torch.cat([weights[labels[indices] == 1] for indices, weights in drawn]).sum() / 1400
        assert 0.42 < rare < 0.58  # a tenth of the images, half of the draws
