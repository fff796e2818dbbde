"""What a killed DVC leaves, and how ``tools.repair`` restores it."""

import subprocess

from tests.chaos import DVC_CUT_OFF
from tests.project import REPOSITORY, Project, kill_group
from tests.support.tiny import Tiny

import pytest
from dvc.lock import Lock


def repaired(project: Project) -> str:
    """What `python -m tools.repair` says when DVC cannot go on; afterwards it can."""
    failed = project.dvc("repro", status=255)
    assert DVC_CUT_OFF.search(failed.stderr + failed.stdout), failed.stderr
    return project.tool("repair").stdout


@pytest.mark.parametrize("kept", [0, 0.5, 0.8])
def test_truncated_dvc_lock_is_repaired(finished: Project, kept: float) -> None:
    finished.set(evaluate__batch_size=7)
    assert finished.repro("evaluate") == ["evaluate"]
    whole = finished.read("dvc.lock")
    part = whole[: int(kept * len(whole))]
    (finished.root / "dvc.lock").write_bytes(part[: part.rfind(b": ")])  # in the midst of a line
    assert repaired(finished).startswith("repair: dvc.lock was truncated; the committed one is restored")
    assert finished.repro("evaluate") == []  # from the run cache
    assert finished.read("dvc.lock") == whole


def test_truncated_uncommitted_dvc_lock_is_repaired(finished: Project) -> None:
    whole = finished.read("dvc.lock")
    finished.run("git", "rm", "--quiet", "--cached", "dvc.lock")
    finished.run("git", "commit", "--quiet", "--message", "no lock")
    (finished.root / "dvc.lock").write_bytes(b"")
    assert repaired(finished).startswith("repair: dvc.lock was truncated and never committed; removed")
    assert finished.repro() == []
    assert finished.read("dvc.lock") == whole


def test_truncated_rwlock_is_repaired(finished: Project) -> None:
    finished.set(evaluate__batch_size=7)
    listed = finished.root / ".dvc/tmp/rwlock"
    listed.write_text("")
    with Lock(str(finished.root / ".dvc/tmp/lock")):  # a living DVC, which may be writing it just now
        assert finished.tool("repair").stdout == ""
    assert listed.exists()
    assert repaired(finished) == "repair: .dvc/tmp/rwlock was truncated; removed, DVC makes a new one\n"
    assert finished.repro("evaluate") == ["evaluate"]


def test_truncated_run_cache_entry_is_repaired(finished: Project) -> None:
    """A Ctrl-C while DVC writes an entry leaves its first part, which DVC then takes for the newest."""
    known = {*finished.root.glob(".dvc/cache/runs/*/*/*")}
    finished.set(evaluate__batch_size=7)
    finished.repro("evaluate")
    (entry,) = {*finished.root.glob(".dvc/cache/runs/*/*/*")} - known
    content = entry.read_bytes()
    entry.with_name(".Yf3k0TlX.tmp").write_bytes(content[: content.index(b"outs:")])
    finished.run("git", "checkout", "dvc.lock")
    assert repaired(finished).endswith(".Yf3k0TlX.tmp was truncated; removed, the stage is recorded anew\n")
    assert finished.repro("evaluate") == []
    assert entry.exists()


def test_repair_leaves_good_files_and_conflicts_alone(finished: Project) -> None:
    for branch, value in (("theirs", 9), ("mine", 8)):
        finished.run("git", "checkout", "--quiet", "-b", branch, "main")
        finished.set(evaluate__batch_size=value)
        batch_size = "        evaluate:\n          batch_size: "
        finished.edit("dvc.lock", f"{batch_size}200", f"{batch_size}{value}")
        finished.commit(branch)
    assert finished.tool("repair").stdout == ""
    finished.run("git", "merge", "theirs", status=1)
    conflict = finished.read("dvc.lock")
    assert b"<<<<<<<" in conflict
    assert finished.tool("repair").stdout == ""
    assert finished.read("dvc.lock") == conflict


def test_branch_that_a_killed_experiment_left_is_restored(tiny: Tiny) -> None:
    def branch() -> str:
        return tiny.run("git", "branch", "--show-current").stdout

    process = tiny.start_waiting("dvc", "exp", "run")
    assert tiny.tool("repair").stdout == "", "it is still running"
    kill_group(process)
    tiny.go_on()
    assert branch() == ""
    params = tiny.read("params.yaml")
    said = tiny.tool("repair").stdout
    assert said == "repair: a `dvc exp run` was killed and had left the branch; back on main\n"
    assert branch() == "main\n"
    assert tiny.run("git", "diff", "--name-only", "HEAD").stdout == "metrics/tiny.json\nparams.yaml\n"
    assert tiny.read("params.yaml") == params
    tiny.dvc("exp", "run", "--name", "again")
    assert branch() == "main\n"

    # Whoever is off the branch by a wish of their own stays there.
    tiny.run("git", "checkout", "--quiet", "--detach")
    assert tiny.tool("repair").stdout == ""
    assert branch() == ""


def test_make_repro_repairs_first() -> None:
    shown = subprocess.run(["make", "-n", "repro"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert shown.index("python -m tools.repair\n") < shown.index("dvc repro\n")
