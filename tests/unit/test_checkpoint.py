"""Checkpoints: what they hold, and what a corrupt one gets."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.train.checkpoint import Checkpoint

import pytest
import torch


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((10,), float(step))}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_corrupt_checkpoint_never_replaces_the_good_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        Checkpoint(tmp_path).save(state(step))
    damage(tmp_path / "newest.pt")
    checkpoint = Checkpoint(tmp_path)
    saved = checkpoint.load()
    assert saved
    assert saved["step"] == 1
    assert "newest.pt is corrupt; the previous checkpoint is used" in caplog.text
    checkpoint.save(state(2))
    damage(tmp_path / "newest.pt")
    saved = Checkpoint(tmp_path).load()
    assert saved
    assert saved["step"] == 1  # not the damaged one, which was the newest when the second was saved


@pytest.mark.parametrize("how", [damage, lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 40)])
def test_two_corrupt_checkpoints_are_none_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: Callable[[Path], None]
) -> None:
    checkpoint = Checkpoint(tmp_path)
    for step in (1, 2):
        checkpoint.save(state(step))
    how(checkpoint.newest)
    how(checkpoint.older)
    assert Checkpoint(tmp_path).load() is None
    assert caplog.messages == [
        f"{checkpoint.newest} and {checkpoint.older}: corrupt, and there is no other checkpoint; starting from scratch"
    ]
    checkpoint.save(state(3))
    saved = Checkpoint(tmp_path).load()
    assert saved
    assert saved["step"] == 3


def test_checkpoint_refuses_pickled_code(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"path": Path("x")})  # pickled by class: nothing that a state needs
    with pytest.raises(Exception, match="weights_only"):
        checkpoint.load()
