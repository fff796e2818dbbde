"""A clone of the project for one training, so that many can run while the workspace stays as it is.

A clone has the code and params of the workspace, hard links to its data, and DVC's cache in common with it. Its
scratch folder keeps the checkpoints, so whatever is killed goes on. A finished run becomes a DVC experiment of the
project.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier import yaml_file
from classifier.errors import DivergedError, ParamsError, PausedError, StageError
from classifier.runner import files
from classifier.runner.declaration import read_declaration
from classifier.runner.lock import SCRATCH

POLL_SECONDS = 0.1
ATTEMPTS = 3  # of a run that was killed from outside; it resumes each time
LOG = Path("scratch/run.log")
TRAIN_METRICS = Path("metrics/train.json")


class Stopped(BaseException):
    """The search is to stop; its runs have saved their state. Not an ``Exception``, so that no handler swallows it."""


def git(folder: Path, *words: str) -> str:
    """What a git command prints, without the last newline.

    Raises:
        StageError: git failed; the message is its own.
    """
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        command = next(word for word in words if not word.startswith("-") and "=" not in word)
        lines = done.stderr.strip().splitlines() or ["failed"]
        reason = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1])
        raise StageError(f"git {command}: {reason.partition(': ')[2] or reason}")
    return done.stdout.rstrip("\n")


class Workspace:
    """What the clones are made from: a commit, the changes since, and the data.

    Args:
        root: of the project.
        folder: for the clones and for links to the data, below ``scratch/``.
        stages: that will run in the clones; the data that they read are linked.

    Attributes:
        alone: a lock. Two workers may be in one folder, as in an array of jobs; git's index, the links and the tables
            stand only one at a time.
    """

    def __init__(self, root: Path, folder: Path, stages: Sequence[str]):
        import filelock

        self.root, self.folder, self.stages = root, folder, stages
        try:
            self.commit = git(root, "rev-parse", "--verify", "HEAD")
        except (StageError, FileNotFoundError):
            raise StageError(
                "this needs git: every run becomes an experiment of a commit; `git init`, add, commit"
            ) from None
        self.alone = filelock.FileLock(SCRATCH / "workspace.lock")
        SCRATCH.mkdir(exist_ok=True)
        with self.alone:
            git(root, "status", "--short")  # in a copied folder git would take every file for changed, and give up
            # A commit of the changed files that no branch knows; empty if there are none.
            identity = ("-c", "user.name=unknown", "-c", "user.email=unknown")
            self._changes = git(root, *identity, "stash", "create") or self.commit
            git(root, "update-ref", f"refs/runs/{folder.name}", self._changes)  # or git might remove it after weeks
        from dvc.repo import Repo

        with Repo(str(root)) as repo:
            self._cache = repo.cache.local_cache_dir

    def link_data(self, params: Mapping[str, Any]) -> None:
        """Keep the data as they are now, whatever becomes of the workspace: hard links where that is possible.

        Raises:
            StageError: something is missing.
        """
        making, kept = self.folder / ".tmp.data", self.folder / "data"
        with self.alone:
            if kept.exists():
                return
            files.remove(making)
            making.mkdir(parents=True)
            for path in self._deps(self.stages, params):
                if not (self.root / path).exists():
                    raise StageError(f"{path} is missing; `dvc repro` makes it")
                if not git(self.root, "ls-files", "--", path):
                    _link(self.root / path, making / path)
            making.rename(kept)

    def _deps(self, stages: Iterable[str], params: Mapping[str, Any]) -> list[str]:
        """What the stages read that no stage among them writes."""
        declared = [read_declaration(stage, dict(params), self.root / "dvc.yaml") for stage in stages]
        written = {path for stage in declared for path in stage.outs}
        return sorted({path for stage in declared for path in stage.deps} - written)

    def drop(self) -> None:
        """Forget the commit of the changed files, and the links to the data."""
        with self.alone:
            files.remove(self.folder / "data")
            files.remove(self.folder / "site-cache")
            git(self.root, "update-ref", "-d", f"refs/runs/{self.folder.name}")
        with contextlib.suppress(OSError):  # records may be there
            self.folder.rmdir()

    def clone(self, name: str) -> "Clone":
        """The clone of that name, which may have begun its work."""
        path = self.folder / name
        if not path.exists():
            making = self.folder / f".tmp.{name}"
            files.remove(making)
            making.parent.mkdir(parents=True, exist_ok=True)
            git(self.root, "clone", "--quiet", "--shared", "--no-checkout", "--", str(self.root), str(making.resolve()))
            git(making, "checkout", "--quiet", "--detach", self.commit)
            git(making, "restore", f"--source={self._changes}", "--worktree", "--", ".")
            for key in ("user.name", "user.email"):  # the experiment's commit needs them
                known = subprocess.run(
                    ["git", "-C", self.root, "config", key], capture_output=True, text=True, check=False
                )
                git(making, "config", key, known.stdout.strip() or "unknown")
            self._configure_dvc(making)
            data = self.folder / "data"
            for file in files.iter_files(data) if data.exists() else ():
                _link(file, making / file.relative_to(data))
            making.rename(path)
        return Clone(path, self.root)

    def _configure_dvc(self, clone: Path) -> None:
        """The remotes and the cache of the workspace, and no files outside the clone."""
        from dvc.config import Config

        own = self.root / ".dvc" / "config.local"
        if own.exists():
            shutil.copy(own, clone / ".dvc" / "config.local")
        with Config(str(clone / ".dvc"), validate=False).edit("local") as config:
            config.setdefault("cache", {})["dir"] = os.path.abspath(self._cache)
            config.setdefault("core", {})["site_cache_dir"] = str((self.folder / "site-cache").resolve())


def _link(source: Path, target: Path) -> None:
    """Hard links, or copies on another file system."""
    for file in files.iter_files(source):
        place = target / file.relative_to(source) if source.is_dir() else target
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file.resolve(), place)
        except FileExistsError:
            continue
        except OSError:
            shutil.copy2(file, place)


class Clone:
    """The clone in which one training runs.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: Path, root: Path):
        self.path, self._root = path, root

    def remove(self) -> None:
        """Delete it; experiments that were published stay."""
        files.remove(self.path)

    def set_params(self, content: dict[str, Any], stop_after_epoch: int) -> None:
        """Write params.yaml."""
        from dvc.utils.serialize import modify_yaml

        content["runtime"]["stop_after_epoch"] = stop_after_epoch
        with modify_yaml(str(self.path / "params.yaml")) as current:  # keeps the comments
            _update(current, content)

    def train_until(self, epoch: int, stop: threading.Event) -> dict[str, float]:
        """Train until the end of an epoch, from where an earlier call ended, and return the row of that epoch.

        Raises:
            DivergedError, ParamsError: the run can come to no result.
            StageError: it failed for another reason.
            Stopped: ``stop`` was set.
        """
        if (row := self._row(epoch)) is None:
            # A stage that sees this variable stops when the process that started it is gone.
            status = self._call(["python", "-m", "stages.train"], stop, {"DVC_STAGE": "train"})
            if status != PausedError.exit_status:
                self._raise(status)
            row = self._row(epoch)
        if row is None:
            raise StageError(f"{self.path}: no checkpoint of epoch {epoch}; {LOG} there may say why")
        return row

    def publish_experiment(self, name: str, stages: Sequence[str], stop: threading.Event) -> dict[str, Any]:
        """Run stages with DVC as an experiment, give it to the project, and return the metrics of ``train``.

        Raises:
            as ``train_until``
        """
        if not (reference := self._reference(name)):
            self._remove_results_after(stages)
            program = ["python", "-m", "dvc", "exp", "run", "--quiet", "--name", name, "--single-item"]
            self._raise(self._call([*program, *stages], stop))
            reference = self._reference(name)
        git(self.path, "push", "--quiet", "--force", "origin", f"{reference}:{reference}")
        metrics: dict[str, Any] = json.loads((self.path / TRAIN_METRICS).read_text(encoding="utf-8"))
        return metrics

    def reproduce(self, stage: str, stop: threading.Event) -> None:
        """Run one stage with DVC, if it has to.

        Raises:
            as ``train_until``
        """
        self._raise(self._call(["python", "-m", "dvc", "repro", "--quiet", "--single-item", stage], stop))

    def _reference(self, name: str) -> str:
        return next(iter(experiment_references(self.path, name)), "")

    def _row(self, epoch: int) -> dict[str, float] | None:
        """The row of an epoch in the newest checkpoint."""
        from classifier.train.checkpoint import Checkpoint

        for folder in self.path.glob("scratch/train-*"):
            state = Checkpoint(folder).load() if folder.is_dir() else None
            if state and len(state["history"]) >= epoch:
                row: dict[str, float] = state["history"][epoch - 1]
                return row
        return None

    def _remove_results_after(self, stages: Sequence[str]) -> None:
        """Remove what later stages made of another model, or the experiment would show it as its own."""
        text = (self.path / "dvc.yaml").read_text(encoding="utf-8")
        params = yaml_file.load((self.path / "params.yaml").read_text(encoding="utf-8"))
        every = [*yaml_file.load(text)["stages"]]
        for stage in every[max(map(every.index, stages)) + 1 :]:
            for path in read_declaration(stage, params, self.path / "dvc.yaml").outs:
                if git(self.path, "ls-files", "--", path):  # metrics: `dvc exp show` calls a missing file an error
                    files.atomic_write(self.path / path, files.json_bytes({}))
                else:
                    files.remove(self.path / path)

    def _call(self, command: Sequence[str], stop: threading.Event, environment: Mapping[str, str] = {}) -> int:
        """Run a command and return its exit status; one that was killed is started again.

        Raises:
            Stopped: ``stop`` was set; the command has ended.
        """
        variables = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "DVC_ROOT")}
        variables |= environment
        python = str(Path(sys.executable).parent)
        if python not in (path := variables.get("PATH", "")).split(os.pathsep):  # the environment is not activated
            variables["PATH"] = f"{python}{os.pathsep}{path}"
        (self.path / LOG).parent.mkdir(exist_ok=True)
        status = 0
        for _ in range(ATTEMPTS):
            if stop.is_set():
                raise Stopped
            with (self.path / LOG).open("ab") as log:
                process = subprocess.Popen(
                    command, cwd=self.path, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
                while (code := process.poll()) is None:
                    if stop.wait(POLL_SECONDS):
                        process.terminate()
                        process.wait()
                        raise Stopped
                status = code
            if 0 <= status < 128:
                break
            time.sleep(POLL_SECONDS)
        return status

    def _raise(self, status: int) -> None:
        """Turn the exit status of a stage into its error, with the line that it printed."""
        if not status:
            return
        lines = (self.path / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(lines) if "error: " in line), lines[-1] if lines else "no message")
        kinds: dict[int, type[StageError]] = {error.exit_status: error for error in (DivergedError, ParamsError)}
        message = last.partition("error: ")[2] or last
        raise kinds.get(status, StageError)(message if status in kinds else f"{self.path}: {message}")


def _update(current: Any, content: Mapping[str, Any]) -> None:
    """Give a section new values, in place."""
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(current.get(key), dict):
            _update(current[key], value)
        elif current.get(key) != value:
            current[key] = value


def experiment_references(folder: Path, name: str) -> list[str]:
    """The git references of the experiments of that name."""
    return [
        line for line in git(folder, "for-each-ref", "--format=%(refname)", "refs/exps/").splitlines()
        if line.rpartition("/")[2] == name and line.count("/") == 4
    ]  # fmt: skip
