"""A clone of the project for one training, which may be killed at any moment and goes on.

Its scratch folder keeps the checkpoints. A finished run becomes a DVC experiment of the project.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier import portability, yaml_file
from classifier.errors import DivergedError, ParamsError, PausedError, StageError
from classifier.experiments.git import experiment_references, git
from classifier.runner import files
from classifier.runner.declaration import read_declaration
from classifier.train.checkpoint import Checkpoint

from dvc.utils.serialize import modify_yaml

POLL_SECONDS = 0.1
ATTEMPTS = 3  # of a run that was killed from outside; it resumes each time
LOG = Path("scratch/run.log")
CHECKPOINTS = "train-*"  # below scratch/
KEPT = Path("scratch/kept")  # the checkpoints as they were before the experiment was begun
TRAIN_METRICS = "metrics/train.json"


class Stopped(BaseException):
    """The search is to stop; its runs have saved their state. Not an ``Exception``, so that no handler swallows it."""


def check_out(clone: Path, commit: str, changes: str) -> None:
    """Give a clone the tracked files of a commit and of the changes since, whatever it has."""
    git(clone, "checkout", "--quiet", "--force", "--detach", commit)
    git(clone, "restore", f"--source={changes}", "--worktree", "--", ".")


class Clone:
    """The clone in which one training runs.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: Path, root: Path, commit: str, changes: str):
        self.path, self._root, self._commit, self._changes = path, root, commit, changes
        self._log_start = 0  # of the last command's lines

    def remove(self) -> None:
        """Delete it; experiments that were published stay."""
        files.remove(self.path)

    def set_params(self, content: dict[str, Any], stop_after_epoch: int) -> None:
        """Write params.yaml."""
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

    def has_experiment(self, name: str) -> bool:
        """Whether ``make_experiment`` came to its end."""
        return bool(experiment_references(self.path, name))

    def make_experiment(self, name: str, stages: Sequence[str], stop: threading.Event) -> None:
        """Run stages with DVC as an experiment.

        Raises:
            as ``train_until``
        """
        making = self.path / "scratch/.tmp.kept"
        files.remove(making)
        for folder in self.path.glob(f"scratch/{CHECKPOINTS}"):
            shutil.copytree(folder, making / folder.name, copy_function=os.link)  # they are never changed in place
        making.mkdir(parents=True, exist_ok=True)
        files.remove(self.path / KEPT)
        making.rename(self.path / KEPT)
        self._remove_results_after(stages)
        program = ["python", "-m", "dvc", "exp", "run", "--quiet", "--name", name, "--single-item"]
        self._raise(self._call([*program, *stages], stop))

    def undo_experiment(self, stop: threading.Event) -> None:
        """Go back to before ``make_experiment`` if that was killed: DVC may have hidden files in a stash, and HEAD.

        Raises:
            Stopped: ``stop`` was set.
        """
        if not (self.path / KEPT).exists():
            return
        with self._alone(stop):
            for reference in git(self.path, "for-each-ref", "--format=%(refname)", "refs/exps", "refs/stash").split():
                git(self.path, "update-ref", "--no-deref", "-d", reference)
            check_out(self.path, self._commit, self._changes)
            files.remove(self.path / ".dvc/tmp/exps")
            for kept in (self.path / KEPT).iterdir():
                if not (checkpoint := self.path / "scratch" / kept.name).exists():
                    kept.rename(checkpoint)
            files.remove(self.path / KEPT)

    def publish_experiment(self, name: str) -> dict[str, Any]:
        """Give the experiment to the project, and return the metrics of ``train``."""
        (reference,) = experiment_references(self.path, name)
        # Nobody else writes it, so a lock on it is of a git that was killed.
        (self._root / git(self._root, "rev-parse", "--git-path", f"{reference}.lock")).unlink(missing_ok=True)
        git(self.path, "push", "--quiet", "--force", "origin", f"{reference}:{reference}")
        metrics: dict[str, Any] = json.loads(git(self.path, "show", f"{reference}:{TRAIN_METRICS}"))
        return metrics

    def reproduce(self, stage: str, stop: threading.Event) -> None:
        """Run one stage with DVC, if it has to.

        Raises:
            as ``train_until``
        """
        self._raise(self._call(["python", "-m", "dvc", "repro", "--quiet", "--single-item", stage], stop))

    def _row(self, epoch: int) -> dict[str, float] | None:
        """The row of an epoch in the newest checkpoint."""
        for folder in self.path.glob(f"scratch/{CHECKPOINTS}"):
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
                    files.atomic_write(self.path / path, portability.json_bytes({}))
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
        log_path = self.path / LOG
        log_path.parent.mkdir(exist_ok=True)
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        status = 0
        for _ in range(ATTEMPTS):
            with self._alone(stop) as lock, log_path.open("ab") as log:
                process = subprocess.Popen(
                    command, cwd=self.path, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    pass_fds=[lock],
                )  # fmt: skip
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

    @contextlib.contextmanager
    def _alone(self, stop: threading.Event) -> Iterator[int]:
        """Wait until no command of this clone runs, and tidy up after one that was killed.

        Yields:
            the descriptor of a locked file. A command that is given it keeps the lock as long as it runs, even if this
            process is killed; filelock has no such thing.

        Raises:
            Stopped: ``stop`` was set.
        """
        with (self.path / "scratch/command.lock").open("w") as file:
            while not stop.is_set():
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    stop.wait(POLL_SECONDS)
            else:
                raise Stopped
            for left in (self.path / ".git").rglob("*.lock"):  # git would refuse for ever
                left.unlink(missing_ok=True)
            yield file.fileno()

    def _raise(self, status: int) -> None:
        """Turn the exit status of a stage into its error, with the line that it printed."""
        if not status:
            return
        lines = (self.path / LOG).read_bytes()[self._log_start :].decode("utf-8", "replace").splitlines()
        last = next(
            (line for line in reversed(lines) if "error: " in line.lower()), lines[-1] if lines else "no message"
        )
        kinds: dict[int, type[StageError]] = {error.exit_status: error for error in (DivergedError, ParamsError)}
        message = re.split("error: ", last, maxsplit=1, flags=re.IGNORECASE)[-1]  # DVC's begin with ERROR
        raise kinds.get(status, StageError)(message if status in kinds else f"{self.path}: {message}")


def _update(current: Any, content: Mapping[str, Any]) -> None:
    """Give a section new values, in place."""
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(current.get(key), dict):
            _update(current[key], value)
        elif current.get(key) != value:
            current[key] = value
