"""The writers, killed between any two of their system calls."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.project import REPOSITORY, Project

import pytest


def kills(case: str, folder: Path, root: Path = REPOSITORY) -> list[dict[str, Any]]:
    """What was found after a kill before each system call of a writer, and after the writer ran again."""
    command = [sys.executable, "-m", "tests.support.syscalls", case, str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.kills
@pytest.mark.skipif(sys.platform != "linux", reason="ptrace(2) as Linux has it")
@pytest.mark.parametrize(
    ("case", "before", "calls"), [("file", "old", 12), ("folder", "none", 30), ("state", "old", 15)]
)
def test_kill_before_any_system_call_leaves_old_or_new(tmp_path: Path, case: str, before: str, calls: int) -> None:
    found = kills(case, tmp_path)
    states = [entry["found"] for entry in found]
    assert len(states) >= calls, states
    assert set(states) == {before, "new"}, Counter(states)
    assert states == sorted(states, key=["old", "none", "new"].index), "it went back"
    for entry in found:  # the next run
        assert entry["again"] == "new"
        assert entry["temporary"] == []


@pytest.mark.kills
@pytest.mark.skipif(sys.platform != "linux", reason="ptrace(2) as Linux has it")
def test_kill_anywhere_in_publish_leaves_whole_outs(finished: Project, tmp_path: Path) -> None:
    found = kills("stage", tmp_path, finished.root)
    states = [entry["found"] for entry in found]
    assert [*dict.fromkeys(states)] == [f"{n} of 8 outs" for n in range(9)], states  # one by one, and never a part
    for entry in found:
        assert entry["again"] == "8 of 8 outs"
        assert entry["temporary"] == []
