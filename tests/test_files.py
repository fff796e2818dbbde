"""The writers: killed between any two of their system calls, on a full disk, in a read-only folder."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier.runner import files
from classifier.train.checkpoint import Checkpoint
from tests.project import REPOSITORY, Project
from tests.test_stage import OUTS

# --- a kill between any two system calls ----------------------------------------------------------------------------


def kills(case: str, folder: Path, root: Path = REPOSITORY) -> list[dict[str, Any]]:
    """What was found after a kill before each system call of a writer, and after the writer ran again."""
    command = [sys.executable, "-m", "tests.syscalls", case, str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="ptrace(2) as Linux has it")
@pytest.mark.parametrize(
    ("case", "before", "calls"), [("file", "old", 12), ("folder", "none", 30), ("state", "old", 15)]
)
def test_a_kill_before_any_system_call_leaves_the_old_or_the_new(
    tmp_path: Path, case: str, before: str, calls: int
) -> None:
    found = kills(case, tmp_path)
    states = [entry["found"] for entry in found]
    assert len(states) >= calls, states
    assert set(states) == {before, "new"}, Counter(states)
    assert states == sorted(states, key=["old", "none", "new"].index), "it went back"
    for entry in found:  # the next run
        assert entry["again"] == "new"
        assert entry["temporary"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="ptrace(2) as Linux has it")
def test_a_kill_anywhere_in_a_publish_leaves_only_whole_outs_and_the_next_run_is_clean(
    finished: Project, tmp_path: Path
) -> None:
    found = kills("stage", tmp_path, finished.root)
    states = [entry["found"] for entry in found]
    assert [*dict.fromkeys(states)] == [f"{n} of 5 outs" for n in range(6)], states  # one by one, and never a part
    for entry in found:
        assert entry["again"] == "5 of 5 outs"
        assert entry["temporary"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("save", [lambda path: files.atomic_write(path, b"new"), lambda path: publish_folder(path)])
def test_content_is_on_the_disk_before_its_name(
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
    *content, name, folder = events
    assert content
    assert all(event == "sync" for event, _ in content)
    assert content[-1] == ("sync", ".tmp.out")
    assert (name, folder) == (("name", "out"), ("sync", tmp_path.name))


def publish_folder(path: Path) -> None:
    temporary = files.temporary_path(path)
    temporary.mkdir()
    for name in ("a", "b"):
        (temporary / name).write_bytes(b"new")
    files.publish(temporary, path)


# --- a full disk, a read-only folder --------------------------------------------------------------------------------

OWN_MOUNTS = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-ec"]


def may_mount() -> bool:
    return not subprocess.run([*OWN_MOUNTS, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode


needs_mounts = pytest.mark.skipif(
    not may_mount(), reason="no rights to mount; tests/test_stage.py has RLIMIT_FSIZE and a folder without rights"
)
RUN_AND_LIST = "{mount}; python -m stages.{stage} || status=$?; echo left: $(find {folder} -type f); exit $status"


@needs_mounts
@pytest.mark.parametrize(
    ("stage", "folder"),
    [("download", "data"), ("annotate", "metrics"), ("train", "models"), ("evaluate", "metrics"), ("export", "models")],
)
def test_a_really_full_disk_is_one_line_and_leaves_nothing(finished: Project, stage: str, folder: str) -> None:
    keep = f"cp -r {folder} before; mount -t tmpfs -o size=SIZE tmpfs {folder}; cp -r before/. {folder}"
    used = sum(-(-path.stat().st_size // 4096) + 1 for path in (finished.root / folder).rglob("*")) * 4096
    freed = sum((finished.root / out).stat().st_size for out in OUTS[stage] if out.startswith(folder))
    assert freed < 10**7
    # The stage's own outs go before it begins; fill up what they leave but for one page.
    mount = keep.replace("SIZE", str(used + 8192))
    fill = "".join(f"; rm -rf {out}" for out in OUTS[stage])
    fill += f"; dd if=/dev/zero of={folder}/ballast bs=4096 2>/dev/null || true; truncate -s -4096 {folder}/ballast"
    script = RUN_AND_LIST.format(mount=mount + fill, stage=stage, folder=folder)
    done = finished.run(*OWN_MOUNTS, script, status=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith(f"{stage}: error: ")]
    assert len(errors) == 1, done.stderr
    assert "No space left on device" in errors[0]
    assert "Traceback" not in done.stderr
    left = done.stdout.splitlines()[-1]
    assert left.startswith("left: ")
    assert ".tmp." not in left
    assert not any(out in left for out in OUTS[stage]), left


@needs_mounts
def test_no_room_for_the_state_is_one_line_and_the_state_before_it_stays(finished: Project) -> None:
    finished.set_all({"train.seed": 5, "runtime.checkpoint_seconds": 0})
    undisturbed = finished.copy(finished.root.parent / "undisturbed")
    undisturbed.stage("train")
    script = (
        "mkdir -p scratch; mount -t tmpfs -o size=SIZE tmpfs scratch; python -m stages.train && exit 9;"
        "ls scratch/train-*/*.pt; mount -o remount,size=50m scratch; python -m stages.train"
    )
    room = 350_000  # for a state and a part of a third
    done = finished.run(*OWN_MOUNTS, script.replace("SIZE", str(room)))
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("train: error: ")]
    assert "newest.pt: No space left on device; free space or rights are needed there" in error
    assert "Traceback" not in done.stderr
    assert "older.pt" in done.stdout
    assert "train: resuming at step" in done.stdout
    for out in OUTS["train"]:
        assert finished.read(out) == undisturbed.read(out), out


@needs_mounts
@pytest.mark.parametrize(
    ("stage", "folder", "named"),
    [
        ("download", "data", "data/raw"),
        ("annotate", "metrics/annotate", "metrics/annotate/samples.png"),
        ("train", "scratch", "scratch/train.lock"),
        ("evaluate", "metrics/evaluate", "metrics/evaluate/classes.csv"),
    ],
)
def test_a_read_only_folder_is_one_line_that_names_it(finished: Project, stage: str, folder: str, named: str) -> None:
    (finished.root / folder).mkdir(exist_ok=True)
    script = f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}; python -m stages.{stage}"
    done = finished.run(*OWN_MOUNTS, script, status=1)
    line = rf"{stage}: error: (\S*/)?{named}: Read-only file system; free space or rights are needed there.*\n"
    assert re.fullmatch(line, done.stderr), done.stderr


# --- a damaged state ------------------------------------------------------------------------------------------------


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((10,), float(step))}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_state_never_replaces_the_good_one_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        Checkpoint(tmp_path).save(state(step))
    damage(tmp_path / "newest.pt")
    checkpoint = Checkpoint(tmp_path)
    saved = checkpoint.load()
    assert saved
    assert saved["step"] == 1
    assert "newest.pt is damaged; falling back to the state before it" in capsys.readouterr().err
    checkpoint.save(state(2))
    damage(tmp_path / "newest.pt")
    saved = Checkpoint(tmp_path).load()
    assert saved
    assert saved["step"] == 1  # not the damaged one, which was the newest when the second was saved


@pytest.mark.parametrize("how", [damage, lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 40)])
def test_two_damaged_states_are_no_state_and_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: Callable[[Path], None]
) -> None:
    checkpoint = Checkpoint(tmp_path)
    for step in (1, 2):
        checkpoint.save(state(step))
    how(checkpoint.newest)
    how(checkpoint.older)
    assert Checkpoint(tmp_path).load() is None
    errors = capsys.readouterr().err
    assert errors == (
        f"warning: {checkpoint.newest} and {checkpoint.older}: damaged, and no other is there; starting afresh\n"
    )
    checkpoint.save(state(3))
    saved = Checkpoint(tmp_path).load()
    assert saved
    assert saved["step"] == 3
