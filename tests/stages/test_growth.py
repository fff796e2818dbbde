"""annotate works on what is new only, and leaves the bytes of a run from nothing."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from classifier.data.images import Content
from classifier.data.preprocessing import Preprocessing
from classifier.prepare import labeled_images, packing
from classifier.runner import files, stat_cache
from tests.project import Project, one_line, wait_for
from tests.support import dask, idx_files

import numpy as np
import psutil
import pytest
from PIL import Image

IMAGES = 60
WRITTEN = "scratch/cache/annotate/code-*/shards/.tmp.*/*.tar"  # shards of a run that goes on
OUTS = ("data/annotations.csv", "data/dataset_info.json", "data/images", "data/test_images", "metrics/annotate.json")


def write_image(path: Path, seed: int, more: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 200, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels + np.uint8(more)).save(path)


def damage(path: Path) -> None:
    """Put another file in its place, whose head is all right."""
    with Image.open(path) as image:
        image.save(path.with_suffix(".jpg"))
    path.unlink()
    with path.with_suffix(".jpg").open("r+b") as stream:
        stream.truncate(stream.seek(0, 2) - 60)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of images that were decoded for their pixels."""
    names: list[str] = []
    call = Preprocessing.__call__

    def noted(self: Preprocessing, content: Content, name: str, invert: bool = False) -> np.ndarray:
        names.append(name)
        return call(self, content, name, invert)

    monkeypatch.setattr(Preprocessing, "__call__", noted)
    monkeypatch.setattr(stat_cache, "TICK_SECONDS", 0)
    return names


@pytest.fixture
def growing(finished: Project) -> Path:
    """A set of two classes, in some ten shards."""
    folder = finished.root / "data/own/growing"
    for number in range(IMAGES):
        write_image(folder / f"{'ab'[number % 2]}/{number}.png", number)
    finished.set_all({"dataset": "growing", "annotate.shard_mb": 0.02, "annotate.bad_files": "skip"})
    finished.stage("annotate")
    return folder


def annotate(project: Project) -> dict[str, str]:
    project.stage("annotate")
    return outputs(project)


def annotate_from_nothing(project: Project) -> dict[str, str]:
    shutil.rmtree(project.root / "scratch/cache")
    return annotate(project)


def outputs(project: Project) -> dict[str, str]:
    """The digests of outputs, by path, but for the table and picture which these decide."""
    return files.digests(project.root / path for path in OUTS)


def test_changes_give_the_bytes_of_a_run_from_nothing(finished: Project, growing: Path, decoded: list[str]) -> None:
    def add_many() -> None:
        for number in range(40):
            write_image(growing / f"a/more {number}.png", 3000 + number)

    edited = growing / "b/11.png"
    size = edited.stat().st_size
    changes = (
        lambda: write_image(growing / "a/new.png", 1000),
        lambda: write_image(growing / "b/near.png", 7, more=2),
        lambda: write_image(edited, 2000),
        lambda: (growing / "a/new.png").unlink(),
        lambda: (growing / "a/20.png").rename(growing / "a/renamed.png"),
        lambda: (growing / "a/22.png").rename(growing / "b/22.png"),
        lambda: damage(growing / "b/13.png"),
        add_many,
        lambda: finished.set(annotate__fit="crop"),
        lambda: finished.set(annotate__size=[20, 16]),
        lambda: finished.set(annotate__seed=5),
    )
    before = annotate(finished)
    for number, change in enumerate(changes):
        change()
        decoded.clear()
        found = annotate(finished)
        assert found != before or number == 8  # all are square, so nothing is fitted
        if number < 7:
            assert len(decoded) < IMAGES / 3
        assert annotate_from_nothing(finished) == found, number
        assert len(decoded) >= IMAGES - 1
        before = found
    assert edited.stat().st_size == size  # noise: only the time of its change differs
    assert finished.json("metrics/annotate.json")["findings"]["nearly_identical"]["pairs"] == 1
    (growing / "b/13.jpg").unlink()  # as long as an image is damaged, its shard is written again
    before = annotate(finished)
    decoded.clear()
    assert annotate(finished) == before
    assert not decoded


def flipped(content: bytes) -> bytes:
    """The content with one bit changed in its middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_shards_that_were_damaged_meanwhile_are_not_taken(finished: Project, growing: Path, decoded: list[str]) -> None:
    """A run by hand links the shards that it remembers, so whoever writes to one in its place writes to both."""
    before = annotate(finished)
    first, second, third = sorted((finished.root / "data/images").glob("*.tar"))[:3]
    with first.open("r+b") as stream:
        stream.seek(600)
        stream.write(b"damaged")
    second.write_bytes(second.read_bytes()[:-1])
    third.with_suffix(".csv").write_text("image,offset\n")
    kept = finished.root / "scratch/cache/annotate"
    figures = sorted(kept.glob("code-*/shards/*/figures"))
    for path, damage in zip(figures, (lambda old: old[:100], lambda old: b"", flipped), strict=False):
        path.write_bytes(damage(path.read_bytes()))
    figures[3].unlink()
    for path in [kept / "inputs", *kept.glob("code-*/near_duplicates"), *kept.glob("code-*/seen-*")]:
        path.write_bytes(flipped(path.read_bytes()))
    (figures[4].parents[1] / ".tmp.left").mkdir()
    assert annotate(finished) == before
    assert 0 < len(decoded) < IMAGES
    assert not [*kept.glob("code-*/shards/.tmp*")]


def test_what_is_kept_goes_with_the_code_that_made_it(finished: Project, growing: Path) -> None:
    (before,) = finished.root.glob("scratch/cache/annotate/code-*")
    with (finished.root / "classifier/prepare/quality.py").open("a") as stream:
        stream.write("# another code\n")
    finished.stage("annotate")
    (after,) = finished.root.glob("scratch/cache/annotate/code-*")
    assert before != after


def test_bad_images_stop_the_stage_though_their_shard_is_kept(finished: Project, growing: Path) -> None:
    damage(growing / "a/0.png")
    finished.stage("annotate")
    assert finished.json("metrics/annotate.json")["findings"]["left_out"] == 1
    finished.set(annotate__bad_files="stop")
    assert "a/0.jpg: not a readable image" in finished.stage("annotate", status=1).stderr


def test_one_more_image_pushes_its_shard_alone_and_one_shard_can_be_pulled(finished: Project, growing: Path) -> None:
    remote = finished.root / "remote"

    def pushed() -> int:
        """The bytes that a push sends, without lists of files."""
        before = {*remote.rglob("*")}
        finished.dvc("repro", "annotate")
        finished.dvc("push", "data/images", "data/test_images")
        return sum(path.stat().st_size for path in {*remote.rglob("*")} - before if path.is_file() and not path.suffix)

    finished.dvc("remote", "add", "--default", "here", str(remote))
    everything = pushed()
    write_image(growing / "a/new.png", 1000)
    assert 0 < pushed() < everything / 4
    name = min(path.name for path in (finished.root / "data/images").glob("*.tar"))
    shutil.rmtree(finished.root / "data/images")
    shutil.rmtree(finished.root / ".dvc/cache")
    finished.dvc("pull", f"data/images/{name}")
    assert [path.name for path in (finished.root / "data/images").iterdir()] == [name]


def test_what_was_wrong_for_a_moment_is_not_remembered(finished: Project, growing: Path, decoded: list[str]) -> None:
    """A lack of memory, which Pillow reports as it does a damaged file, and an image that changes meanwhile."""
    before = annotate(finished)
    path = growing / "a/0.png"
    content, convert, plan = path.read_bytes(), Preprocessing.convert, packing._plan

    def fail(*them: Any) -> Any:
        if decoded[-1] == "a/0.png":
            raise MemoryError
        return convert(*them)

    def change(*them: Any) -> Any:
        write_image(path, 5000)
        return plan(*them)

    with patch.object(Preprocessing, "convert", fail):
        assert annotate_from_nothing(finished) != before
    assert annotate(finished) == before
    shutil.rmtree(finished.root / "scratch/cache")
    with patch.object(packing, "_plan", change):
        assert "a/0.png changed while the stage ran; run it again" in one_line(finished.stage("annotate", status=1))
    path.write_bytes(content)
    assert annotate(finished) == before


def test_the_same_pixels_in_another_shape_are_other_images(many: Project, decoded: list[str]) -> None:
    many.set(annotate__size=[16, 16])
    for shape in ((12, 48), (48, 12)):
        for path in (many.root / "data/own/many").glob("*images*"):
            idx_files.write(path, idx_files.read(path)[:300].reshape(-1, *shape))
        for path in (many.root / "data/own/many").glob("*labels*"):
            idx_files.write(path, idx_files.read(path)[:300])
        found = annotate(many)
    assert annotate_from_nothing(many) == found


@pytest.fixture
def many(finished: Project) -> Project:
    """A project with a set that is large enough for several processes."""
    random = np.random.default_rng(0)
    folder = finished.root / "data/own/many"
    folder.mkdir()
    for part, count in (("train", labeled_images.FOR_PROCESSES), ("t10k", 100)):
        idx_files.write(folder / f"{part}-images-idx3-ubyte", random.integers(0, 256, (count, 24, 24)).astype(np.uint8))
        idx_files.write(folder / f"{part}-labels-idx1-ubyte", (np.arange(count) % 3).astype(np.uint8))
    finished.set_all({"dataset": "many", "annotate.shard_mb": 2})
    return finished


def workers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that work on images."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.kills
def test_killed_processes_lose_nothing_and_leave_nothing(many: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for signum, to_worker, status, says in (
        (signal.SIGKILL, True, 1, "a process at work was killed"),
        (signal.SIGTERM, False, 143, "stopped by SIGTERM"),
        (signal.SIGINT, False, 130, "stopped by SIGINT"),
        (signal.SIGKILL, False, -signal.SIGKILL, ""),
    ):
        process = many.start("python", "-m", "stages.annotate")
        wait_for(lambda: len([*many.root.glob(WRITTEN)]) > 1)
        started = workers(process)
        assert len(started) > 1
        if to_worker:
            started[0].kill()
        elif signum == signal.SIGINT:
            os.killpg(process.pid, signum)  # as a terminal does
        else:
            process.send_signal(signum)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == status
        assert says in errors
        assert len(errors.splitlines()) <= 1 + (not says)
        _, alive = psutil.wait_procs(started, timeout=10)
        assert not alive
        assert not (many.root / "data/images").exists()
        many.run("python", "-m", "stages.annotate")
        found.append(outputs(many))
        for folder in ("scratch/cache", "data/images", "data/test_images"):
            shutil.rmtree(many.root / folder)
    monkeypatch.setattr(labeled_images, "FOR_PROCESSES", 10 * labeled_images.FOR_PROCESSES)
    assert found == 4 * [annotate(many)]


@pytest.mark.kills
def test_workers_of_dask_write_the_same_shards_though_one_is_killed(many: Project, tmp_path: Path) -> None:
    many.environment["PYTHONPATH"] = str(many.root)  # where the environment was made for this clone, none is needed
    command = ("python", "-m", "stages.annotate")
    many.run(*command)
    expected = outputs(many)
    shutil.rmtree(many.root / "scratch/cache")
    with dask.scheduler(many, tmp_path / "scheduler.json") as file, contextlib.ExitStack() as stack:
        many.set(runtime__scheduler=str(file))
        many.environment["DASK_DISTRIBUTED__ADMIN__LARGE_GRAPH_WARNING_THRESHOLD"] = "1kB"  # as for larger shards
        first = stack.enter_context(dask.program(many, *dask.worker(file)))
        process = many.start(*command)
        wait_for(lambda: bool([*many.root.glob(WRITTEN)]))
        dask.kill(first)
        stack.enter_context(dask.program(many, *dask.worker(file)))
        _, errors = process.communicate(timeout=100)
        assert (process.returncode, errors) == (0, "")
        assert outputs(many) == expected
        with (many.root / "classifier/errors.py").open("a") as stream:
            stream.write("# code that the worker has not loaded\n")
        many.set(annotate__size=[20, 20])
        refused = one_line(many.run(*command, status=1))
        assert f" runs in {many.root}, or with other code; start it again, in {many.root}" in refused
    many.set(runtime__scheduler="none.json")
    assert "the file none.json is missing; `dask scheduler" in one_line(many.run(*command, status=1))
    many.set(runtime__scheduler="tcp://127.0.0.1:1")
    assert "the scheduler tcp://127.0.0.1:1: " in one_line(many.run(*command, status=1))
