"""Checkpoints: what they hold, and what a corrupt one gets."""

import os
from collections.abc import Callable
from pathlib import Path

from classifier.train.checkpoint import Checkpoint
from tests.unit.helpers import flip_byte, saved_step

import pytest
import torch


def save(checkpoint: Checkpoint, *steps: int) -> None:
    for step in steps:
        checkpoint.save({"step": step, "weights": torch.full((10,), float(step))})


def damage(path: Path) -> None:
    flip_byte(path, path.stat().st_size // 2)


def test_corrupt_checkpoint_never_replaces_the_good_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(Checkpoint(tmp_path), 1, 2)
    checkpoint = Checkpoint(tmp_path)
    damage(checkpoint.newest)
    assert (checkpoint.load() or {}).get("step") == 1
    assert "newest.pt is corrupt; the previous checkpoint is used" in caplog.text
    save(checkpoint, 2)
    damage(checkpoint.newest)
    assert saved_step(tmp_path) == 1  # not the damaged one, which was the newest when the second was saved


@pytest.mark.parametrize("how", [damage, lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 40)])
def test_two_corrupt_checkpoints_are_none_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: Callable[[Path], None]
) -> None:
    checkpoint = Checkpoint(tmp_path)
    save(checkpoint, 1, 2)
    how(checkpoint.newest)
    how(checkpoint.older)
    assert Checkpoint(tmp_path).load() is None
    assert caplog.messages == [
        f"{checkpoint.newest} and {checkpoint.older}: corrupt, and there is no other checkpoint; starting from scratch"
    ]
    save(checkpoint, 3)
    assert saved_step(tmp_path) == 3


def test_checkpoint_refuses_pickled_code(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"path": Path("x")})  # pickled by class: nothing that a state needs
    with pytest.raises(Exception, match="weights_only"):
        checkpoint.load()
