"""A small learnable data set, and clones of this repository that run the real pipeline on it."""

import compileall
import dataclasses
import functools
import hashlib
import json
import operator
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier import yaml_file
from classifier.prepare.registry import DATASETS, RAW_FILES, DatasetSpec
from classifier.runner.declaration import stages_from
from tests.in_process import Programs
from tests.support import idx_files
from tests.support.processes import execute

import numpy as np
import pandas as pd
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = stages_from("download", REPOSITORY / "dvc.yaml")
TRAINING_IMAGES, TEST_IMAGES = 400, 100
BIN = Path(sys.executable).parent

# What the tests run with, whatever a person sets in params.yaml: small and quick, with every part of a recipe in use.
PARAMS = REPOSITORY / "tests/data/params.yaml"


def make_raw(folder: Path, seed: int = 0) -> Path:
    """Write four IDX files: each class lights another patch of a noisy image, so that a model can learn it."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for part, count in (("train", TRAINING_IMAGES), ("t10k", TEST_IMAGES)):
        labels = np.arange(count) % 10
        random.shuffle(labels)
        pixels = random.integers(0, 60, (count, 28, 28))
        for row, label in zip(pixels, labels, strict=True):
            y, x = divmod(int(label), 5)
            row[2 + 13 * y : 13 + 13 * y, 2 + 5 * x : 6 + 5 * x] += random.integers(80, 190)
        idx_files.write(folder / f"{part}-images-idx3-ubyte", pixels.astype(np.uint8))
        idx_files.write(folder / f"{part}-labels-idx1-ubyte", labels.astype(np.uint8))
    return folder


@functools.cache
def registered(raw: Path) -> DatasetSpec:
    """The entry of the registry for files of ``make_raw``: their digests instead of the published ones."""
    entry = DATASETS["fashion-mnist"]
    if not (raw / RAW_FILES[0]).exists():  # a project without
        return entry
    contents = [hashlib.md5((raw / name).read_bytes()).hexdigest() for name in RAW_FILES]
    files = [dataclasses.replace(file, content_md5=md5) for file, md5 in zip(entry.files, contents, strict=True)]
    return dataclasses.replace(entry, files=tuple(files))


class Project:
    """A clone of this repository, with its own git history, that runs on the small data set.

    ``stage``, ``tool``, ``dvc`` and ``repro`` run in this process, on the code of this repository. ``run`` and
    ``start`` start processes, on the code of the clone, for what is about processes.
    """

    def __init__(self, root: Path, raw: Path):
        self.root, self.raw = root, raw
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FASHION_MNIST_SOURCES": str(raw),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for name in ("DVC_STAGE", "DVC_ROOT", "GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
            self.environment.pop(name, None)

    def run(
        self, *command: str, status: int = 0, cwd: Path | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a person would, in the clone or in ``cwd``, and expect an exit status."""
        return execute(*command, status=status, cwd=cwd or self.root, env=self.environment, **options)

    def dvc(self, *words: str, status: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self._in_process("dvc", *words, status=status, cwd=cwd)

    def stage(self, name: str, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        return self._in_process(f"stages.{name}", *words, status=status)

    def tool(self, name: str, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        return self._in_process(f"tools.{name}", *words, status=status)

    def _in_process(self, *words: str, status: int, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return Programs(self.root, self.environment, registered(self.raw)).run(words, status, cwd or self.root)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command as the leader of a process group of its own."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def repro(self, *words: str) -> list[str]:
        """Run ``dvc repro`` and return the stages whose command ran."""
        return ran(self.dvc("repro", *words).stdout)

    def set(self, **values: Any) -> None:
        self.set_all({key.replace("__", "."): value for key, value in values.items()})

    def set_all(self, values: dict[str, Any]) -> None:
        """Change params by dotted key, as a person does in an editor; ``search.name`` is a key of search.yaml."""
        for path, of_search in ((self.root / "search.yaml", True), (self.root / "params.yaml", False)):
            changes = {key: value for key, value in values.items() if key.startswith("search.") == of_search}
            if not changes:
                continue
            content = yaml_file.load(path.read_text())
            for key, value in changes.items():
                *sections, last = key.removeprefix("search.").split(".")
                section = functools.reduce(operator.getitem, sections, content)
                assert last in section, f"no such param: {key}"
                section[last] = value
            path.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False))

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text, f"{path} has no {old!r}"
        (self.root / path).write_text(text.replace(old, new, 1))

    def commit(self, message: str = "change") -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def begin_history(self) -> None:
        """Make it a git repository, with all its files in the first commit."""
        self.run("git", "init", "-q", "-b", "main")
        self.run("git", "config", "user.name", "Test")
        self.run("git", "config", "user.email", "test@example.org")
        self.run("git", "config", "gc.auto", "0")
        self.commit("the pipeline on a small data set")

    def copy(self, root: Path) -> "Project":
        """The same state in another folder: files, DVC cache and git history."""
        root.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", self.root, root], check=True)  # half the time of shutil, hundreds of times
        return Project(root, self.raw)

    def prepare_for_copies(self) -> None:
        """Fewer files, and bytecode that need not be made again in every process of every copy."""
        self.run("git", "repack", "-adq")
        for name in ("classifier", "stages", "tools", "demo"):
            compileall.compile_dir(self.root / name, quiet=1)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def json(self, path: str) -> Any:
        return json.loads(self.read(path))

    def table(self, path: str, **options: Any) -> Any:
        """The data frame of a CSV file."""
        return pd.read_csv(self.root / path, **options)

    def write(self, path: str, content: str | bytes) -> None:
        """Put another file in a file's place; DVC may have linked the old one to its cache."""
        (self.root / path).unlink(missing_ok=True)
        (self.root / path).write_bytes(content.encode() if isinstance(content, str) else content)

    def test_images(self) -> Path:
        """A folder with the test images as files, as any program for tar unpacks them."""
        folder = self.root.with_name(f"{self.root.name}-unpacked")
        for shard in (self.root / "data/test_images").glob("*.tar"):
            with tarfile.open(shard) as archive:
                archive.extractall(folder, filter="data")
        return folder

    def clean(self) -> bool:
        """Whether git sees no change, and DVC none either."""
        assert self.dvc("status").stdout == "Data and pipelines are up to date.\n"
        return self.run("git", "status", "--porcelain").stdout == ""


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The errors that a program printed, which must be one line."""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def ran(output: str) -> list[str]:
    """The stages whose command a ``dvc repro`` ran, from what it printed."""
    return [line.removeprefix("> python -m stages.") for line in output.splitlines() if line.startswith("> python")]


def wait_for(
    condition: Callable[[], Any], seconds: float = 60, pause: float = 0.01, amid: subprocess.Popen[str] | None = None
) -> None:
    """Wait until something has happened, looking again after each pause; fail if it does not, or a process ends."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        assert amid is None or amid.poll() is None, amid.communicate()
        time.sleep(pause)


def kill_group(process: subprocess.Popen[str], signum: int = signal.SIGKILL) -> None:
    os.killpg(process.pid, signum)
    process.wait(60)


def copy_repository(root: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Copy the working tree as git sees it, without the results that dvc.lock records."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if name != "dvc.lock" and wanted(name) and (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)


def make_project(root: Path, raw: Path) -> Project:
    """Clone the working tree, set it to the small data set, and commit; no stage has run.

    Pages and tests stay out of it, since tests make hundreds of copies.
    """
    unused = ("benchmarks/", "docs/", "tests/")
    copy_repository(root, lambda name: not name.startswith(unused) or name == "tests/support/operations.py")
    project = Project(root, raw)
    for published, small in zip(DATASETS["fashion-mnist"].files, registered(raw).files, strict=True):
        project.edit("classifier/prepare/registry.py", str(published.content_md5), str(small.content_md5))
    shutil.copy(PARAMS, root / "params.yaml")
    shutil.copy(PARAMS.with_name("search.yaml"), root / "search.yaml")
    project.begin_history()
    return project
