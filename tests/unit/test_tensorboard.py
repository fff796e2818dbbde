"""The event files of TensorBoard are closed, whatever ends the run."""

from pathlib import Path

from classifier.tensorboard import TensorBoardLogger

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn


def test_writer_is_closed_when_the_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    folder = tmp_path / "logs/run"
    with pytest.raises(RuntimeError, match="out of memory"), TensorBoardLogger(folder, model, (1, 2, 2)) as logger:  # noqa: PT012
        logger.update([{"epoch": 1, "lr": 0.1, "val_loss": 0.5}])
        assert logger.writer.file_writer is not None
        raise RuntimeError("out of memory")
    assert logger.writer.file_writer is None  # torch sets it to None when it is closed
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.value for event in events.Scalars("loss/val")] == [0.5]
