"""Atomic writing."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

from classifier.runner import files

import pytest


def publish_folder(path: Path) -> None:
    temporary = files.temporary_path(path)
    temporary.mkdir()
    for name in ("a", "b"):
        (temporary / name).write_bytes(b"new")
    files.publish(temporary, path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("save", [partial(files.atomic_write, content=b"new"), publish_folder], ids=["file", "folder"])
def test_publish_syncs_content_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[Path], None]
) -> None:
    """A kill loses nothing that was written, a power cut may: so the order of syncs and names is what counts."""
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_replace(temporary: Path, path: Path) -> None:
        events.append(("name", path.name))
        replace(temporary, path)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    save(tmp_path / "out")
    *content, last, name, folder = events
    assert {event for event, _ in content} <= {"sync"}
    assert [last, name, folder] == [("sync", ".tmp.out"), ("name", "out"), ("sync", tmp_path.name)]


def test_atomic_write_leaves_the_linked_cache_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, out = tmp_path / "cached", tmp_path / "out"
    cached.write_text("in DVC's cache")
    out.hardlink_to(cached)
    monkeypatch.setattr(os, "umask", lambda _: 0o022)
    files.atomic_write(out, b"new")
    assert cached.read_text() == "in DVC's cache"
    assert out.read_text() == "new"
    assert out.stat().st_mode & 0o777 == 0o644


def test_atomic_write_failing_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    files.atomic_write(out, b"old")
    monkeypatch.setattr(os, "replace", Mock(side_effect=OSError("disk on fire")))
    with pytest.raises(OSError, match="disk on fire"):
        files.atomic_write(out, b"new")
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
