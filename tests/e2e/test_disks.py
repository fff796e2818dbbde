"""A full disk, a read-only folder and too little memory, with real mounts and with limits."""

import os
import re
import resource
import subprocess
from functools import partial

from tests.project import Project, one_line
from tests.support.tiny import OUTS as TINY_OUTS
from tests.support.tiny import Tiny

import pytest

TRAIN_OUTS = ("models/classifier.safetensors", "metrics/train.json", "metrics/train/curves.csv")
OWN_MOUNTS = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-ec"]


TRIED = subprocess.run([*OWN_MOUNTS, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False)
MAY_MOUNT = TRIED.returncode == 0
needs_mounts = pytest.mark.skipif(
    not MAY_MOUNT, reason="no rights to mount; the tests of limits and of a folder without rights run"
)


def error_of(stage: str, done: "subprocess.CompletedProcess[str]") -> str:
    """The one line of a stage's error, without a traceback; programs beside it may say something, too."""
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith(f"{stage}: error: ")]
    return error


@needs_mounts
@pytest.mark.parametrize(("kind", "stage", "outs"), [("tiny", "tiny", TINY_OUTS), ("finished", "train", TRAIN_OUTS)])
def test_full_disk_is_one_line_and_leaves_nothing(
    request: pytest.FixtureRequest, kind: str, stage: str, outs: tuple[str, ...]
) -> None:
    """safetensors writes the weights of train from Rust, whose error is another one."""
    project: Project = request.getfixturevalue(kind)
    used = sum(-(-path.stat().st_size // 4096) + 1 for path in (project.root / "models").rglob("*")) * 4096
    # The stage's own outs go before it begins; fill up what they leave but for one page.
    script = f"""
        cp -r models before; mount -t tmpfs -o size={used + 8192} tmpfs models; cp -r before/. models
        rm -rf {" ".join(outs)}
        dd if=/dev/zero of=models/ballast bs=4096 2>/dev/null || true; truncate -s -4096 models/ballast
        python -m stages.{stage} || status=$?
        echo left: $(find models -type f); exit $status"""
    done = project.run(*OWN_MOUNTS, script, status=1)
    assert "No space left on device" in error_of(stage, done)
    left = done.stdout.splitlines()[-1]
    assert left.startswith("left: ")
    assert ".tmp." not in left
    assert not any(out in left for out in outs), left


@pytest.mark.kills
@needs_mounts
def test_full_disk_keeps_the_previous_checkpoint(finished: Project) -> None:
    finished.set_all({"train.seed": 5, "runtime.checkpoint_seconds": 0})
    reference = finished.copy(finished.root.parent / "reference")
    reference.set(runtime__checkpoint_seconds=1000)
    reference.stage("train")
    script = (
        "mkdir -p scratch; mount -t tmpfs -o size=350000 tmpfs scratch; python -m stages.train && exit 9;"
        "ls scratch/train-*/*.pt; mount -o remount,size=50m scratch; python -m stages.train"
    )  # room for a state and a part of a third
    done = finished.run(*OWN_MOUNTS, script)
    said = "newest.pt: No space left on device; free space or permissions are needed there"
    assert said in error_of("train", done)
    assert "older.pt" in done.stdout
    assert "train: resuming at step" in done.stdout
    for out in TRAIN_OUTS:
        assert finished.read(out) == reference.read(out), out


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
    """Root may write anywhere but on a file system that is mounted read-only."""
    project: Project = request.getfixturevalue(kind)
    path = project.root / folder
    path.mkdir(exist_ok=True)
    command = f"python -m stages.{stage}"
    if MAY_MOUNT:
        mounts = f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"
        done, reason = project.run(*OWN_MOUNTS, f"{mounts}; {command}", status=1), "Read-only file system"
    else:
        path.chmod(0o555)
        done, reason = project.run(*command.split(), status=1), "Permission denied"
        path.chmod(0o755)
    line = rf"{stage}: error: (\S*/)?{named}: {reason}; free space or permissions are needed there.*\n"
    assert re.fullmatch(line, done.stderr), done.stderr


@pytest.mark.parametrize("limit", [200, 4096])  # bytes a file may have: less than one write, and more than the first
def test_file_size_limit_is_one_line_and_leaves_nothing(tiny: Tiny, limit: int) -> None:
    done = tiny.stage("tiny", status=1, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)))
    assert "File too large" in error_of("tiny", done)
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
    error = one_line(tiny.stage("tiny", status=1))
    assert error.startswith(f"tiny: error: memory ran out{reason}")
    assert "; allow more of it, or lower train.batch_size, runtime.image_memory_mb or runtime.threads" in error


def test_too_little_memory_for_the_libraries_is_one_line_that_says_so(finished: Project) -> None:
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (5 * 10**8, 5 * 10**8))
    error = one_line(finished.run("python", "-m", "stages.evaluate", status=1, preexec_fn=limit))
    assert error.startswith("error: a library cannot be loaded (")
    assert error.endswith("; allow more memory, or `make setup` again\n")
