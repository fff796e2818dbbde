"""What is remembered of files is what is in them."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from classifier.runner import stat_cache
from classifier.runner.stat_cache import StatCache

import pytest


def read(path: Path) -> str:
    print(path.name)
    return path.read_text()


def contents(memory: Path, *paths: Path) -> list[str]:
    """What a cache says of files; the names of those that it read are printed."""
    cache = StatCache(memory)
    found = [cache.get(path, partial(read, path)) for path in paths]
    cache.save()
    return found


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    for name in "ab":
        (tmp_path / name).write_text(f"old {name}")
    return tmp_path / "a", tmp_path / "b"


def replace(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    write_in_place(other)
    other.replace(path)


def write_in_place(path: Path) -> None:
    before = path.stat().st_mtime_ns
    path.write_text("new a")
    os.utime(path, ns=(before, before))  # as rsync and unpackers do


@pytest.mark.parametrize("change", [replace, write_in_place])
def test_a_changed_file_is_read_again_and_no_other(
    change: Callable[[Path], None],
    two: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stat_cache, "TICK_SECONDS", 0)
    memory = tmp_path / "memory/known"
    assert contents(memory, *two) == ["old a", "old b"]
    assert contents(memory, *two) == ["old a", "old b"]
    assert capsys.readouterr().out == "a\nb\n"
    change(two[0])
    assert contents(memory, *two) == ["new a", "old b"]
    assert capsys.readouterr().out == "a\n"
    contents(memory, two[0])
    contents(memory, *two)  # the other was not asked for, so it was forgotten
    assert capsys.readouterr().out == "b\n"
    memory.write_bytes(memory.read_bytes().replace(b"new a", b"old a"))  # damaged
    assert contents(memory, *two) == ["new a", "old b"]


def test_a_file_of_this_moment_is_not_remembered(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents(tmp_path / "known", *two)
    contents(tmp_path / "known", *two)
    assert capsys.readouterr().out == "a\nb\n" * 2
