"""A full disk, a read-only folder and too little memory, with real mounts and with limits."""

import os
import re
import resource
import subprocess

from tests.project import Project
from tests.support.tiny import OUTS as TINY_OUTS
from tests.support.tiny import Tiny

import pytest

TRAIN_OUTS = ("models/classifier.safetensors", "metrics/train.json", "metrics/train/curves.csv")
OWN_MOUNTS = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-ec"]


def may_mount() -> bool:
    return not subprocess.run([*OWN_MOUNTS, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode


needs_mounts = pytest.mark.skipif(
    not may_mount(), reason="no rights to mount; the tests of limits and of a folder without rights run"
)

RUN_AND_LIST = "{mount}; python -m stages.{stage} || status=$?; echo left: $(find {folder} -type f); exit $status"


@needs_mounts
@pytest.mark.parametrize(("kind", "stage", "outs"), [("tiny", "tiny", TINY_OUTS), ("finished", "train", TRAIN_OUTS)])
def test_full_disk_is_one_line_and_leaves_nothing(
    request: pytest.FixtureRequest, kind: str, stage: str, outs: tuple[str, ...]
) -> None:
    """safetensors writes the weights of train from Rust, whose error is another one."""
    project: Project = request.getfixturevalue(kind)
    folder = "models"
    keep = f"cp -r {folder} before; mount -t tmpfs -o size=SIZE tmpfs {folder}; cp -r before/. {folder}"
    used = sum(-(-path.stat().st_size // 4096) + 1 for path in (project.root / folder).rglob("*")) * 4096
    # The stage's own outs go before it begins; fill up what they leave but for one page.
    mount = keep.replace("SIZE", str(used + 8192))
    fill = "".join(f"; rm -rf {out}" for out in outs)
    fill += f"; dd if=/dev/zero of={folder}/ballast bs=4096 2>/dev/null || true; truncate -s -4096 {folder}/ballast"
    script = RUN_AND_LIST.format(mount=mount + fill, stage=stage, folder=folder)
    done = project.run(*OWN_MOUNTS, script, status=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith(f"{stage}: error: ")]
    assert len(errors) == 1, done.stderr
    assert "No space left on device" in errors[0]
    assert "Traceback" not in done.stderr
    left = done.stdout.splitlines()[-1]
    assert left.startswith("left: ")
    assert ".tmp." not in left
    assert not any(out in left for out in outs), left


@pytest.mark.kills
@needs_mounts
def test_full_disk_keeps_the_previous_checkpoint(finished: Project) -> None:
    finished.set_all({"train.seed": 5, "runtime.checkpoint_seconds": 0})
    reference = finished.copy(finished.root.parent / "reference")
    reference.stage("train")
    script = (
        "mkdir -p scratch; mount -t tmpfs -o size=SIZE tmpfs scratch; python -m stages.train && exit 9;"
        "ls scratch/train-*/*.pt; mount -o remount,size=50m scratch; python -m stages.train"
    )
    room = 350_000  # for a state and a part of a third
    done = finished.run(*OWN_MOUNTS, script.replace("SIZE", str(room)))
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("train: error: ")]
    assert "newest.pt: No space left on device; free space or permissions are needed there" in error
    assert "Traceback" not in done.stderr
    assert "older.pt" in done.stdout
    assert "train: resuming at step" in done.stdout
    for out in TRAIN_OUTS:
        assert finished.read(out) == reference.read(out), out


@needs_mounts
@pytest.mark.parametrize(
    ("kind", "stage", "folder", "named"),
    [
        ("tiny", "tiny", "models", "models/first.bin"),
        ("tiny", "tiny", "scratch", "scratch/tiny.lock"),
        ("tiny", "tiny", "metrics", "metrics/tiny.json"),
        ("finished", "download", "data", "data/raw"),  # above a folder
    ],
)
def test_read_only_folder_is_one_line_that_names_it(
    request: pytest.FixtureRequest, kind: str, stage: str, folder: str, named: str
) -> None:
    project: Project = request.getfixturevalue(kind)
    (project.root / folder).mkdir(exist_ok=True)
    script = f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}; python -m stages.{stage}"
    done = project.run(*OWN_MOUNTS, script, status=1)
    line = rf"{stage}: error: (\S*/)?{named}: Read-only file system; free space or permissions are needed there.*\n"
    assert re.fullmatch(line, done.stderr), done.stderr


@pytest.mark.parametrize("limit", [200, 4096])  # bytes a file may have: less than one write, and more than the first
def test_file_size_limit_is_one_line_and_leaves_nothing(tiny: Tiny, limit: int) -> None:
    soft = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    done = tiny.stage("tiny", status=1, preexec_fn=soft)
    errors = [line for line in done.stderr.splitlines() if line.startswith("tiny: error: ")]
    assert len(errors) == 1
    assert "File too large" in errors[0]
    assert "Traceback" not in done.stderr
    tiny.nothing_is_left()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("bytearray(2**50)", " (MemoryError)"),
        ("__import__('numpy').empty(2**50)", " (Unable to allocate 8.00 PiB "),
        ("__import__('torch').empty(2**48)", " ([enforce fail at alloc_cpu.cpp:"),
        ("raise OSError(12, 'Cannot allocate memory')", " ([Errno 12] Cannot allocate memory)"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 20.00 MiB.')", " (CUDA out of memory. Tried to "),
    ],
)
def test_too_little_memory_is_one_line_that_says_so(tiny: Tiny, statement: str, reason: str) -> None:
    tiny.edit("stages/tiny.py", "def main(context):\n", f"def main(context):\n    {statement}\n")
    errors = tiny.stage("tiny", status=1).stderr
    assert errors.startswith(f"tiny: error: memory ran out{reason}")
    assert "; allow more of it, or lower train.batch_size, runtime.image_memory_mb or runtime.threads" in errors
    assert errors.count("\n") == 1


def test_too_little_memory_for_the_libraries_is_one_line_that_says_so(finished: Project) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (5 * 10**8, 5 * 10**8))  # noqa: E731
    errors = finished.run("python", "-m", "stages.evaluate", status=1, preexec_fn=limit).stderr
    assert errors.startswith("error: a library cannot be loaded (")
    assert errors.endswith("; allow more memory, or `make setup` again\n")
    assert errors.count("\n") == 1


def test_read_only_folder_without_mounts_is_one_line(tiny: Tiny) -> None:
    if os.geteuid() == 0:  # root may write anywhere but on a file system that is mounted read-only
        mount = "mount --bind models models && mount -o remount,bind,ro models"
        command = ["unshare", "-m", "sh", "-c", f"{mount} && exec python -m stages.tiny"]
    else:
        (tiny.root / "models").chmod(0o555)
        command = ["python", "-m", "stages.tiny"]
    done = tiny.run(*command, status=1)
    (tiny.root / "models").chmod(0o755)
    assert done.stderr.startswith("tiny: error: models/first.bin: ")
    assert "free space or permissions are needed there" in done.stderr
    assert done.stderr.count("\n") == 1
