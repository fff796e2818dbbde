"""A copy of the project as it is, in which trainings run while the person goes on working; and experiments of them.

Tracked files are copied, data are hard links. The trainings write below a folder of their own, so one copy serves all.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier import portability, yaml_file
from classifier.errors import StageError
from classifier.experiments.git import experiment_references, git
from classifier.experiments.halving import Run
from classifier.experiments.stage_process import Answer, Task
from classifier.runner import files
from classifier.runner.cli import ROOT
from classifier.runner.declaration import get_by_key, read_declaration, stages_from
from classifier.runner.lock import SCRATCH

from dvc.config import Config
from dvc.repo import Repo
from dvc.utils.serialize import modify_yaml


class Snapshot:
    """A copy of the project.

    Args:
        folder: for the copy, below ``scratch/``; an earlier call may have made it.
        stages: that will run in it.
        params: the whole of params.yaml.

    Attributes:
        project: the copy.
        runs: the folder for what is run.

    Raises:
        StageError: data are missing, or there is no git repository with a commit.
    """

    def __init__(self, folder: Path, stages: Sequence[str], params: dict[str, Any]):
        self.folder = folder.resolve()
        self.project, self.runs = self.folder / "project", self.folder / "runs"
        self._list = self.project / SCRATCH / "snapshot.json"  # its commit, its tracked files, its data
        if self.project.exists():
            return
        try:
            commit = git(ROOT, "rev-parse", "--verify", "HEAD")
        except StageError as error:
            raise StageError(
                f"this needs git: experiments belong to a commit; `git init`, `git add`, `git commit` ({error})"
            ) from None
        tracked = [name for name in git(ROOT, "ls-files", "-z").split("\0") if name and (ROOT / name).is_file()]
        folders = {str(folder) for name in tracked for folder in Path(name).parents}
        data = [path for path in inputs(stages, params) if path not in {*tracked, *folders}]
        making = self.folder / ".tmp.project"
        files.remove(making)
        _copy(tracked, ROOT, making)
        link(data, ROOT, making)
        content = {"commit": commit, "tracked": tracked, "data": data}
        files.atomic_write(making / self._list.relative_to(self.project), portability.json_bytes(content))
        making.rename(self.project)

    def task(self, stage: str, name: str, overrides: dict[str, Any]) -> Task:
        """A stage to run with other params, whose outputs go to the folder of that name."""
        out = str(self.runs / name)
        return {"stage": stage, "overrides": overrides, "out": out, "log": f"{out}.log"}

    def train(self, run: Run, last_epoch: int) -> Task:
        """The task of a run; it goes to its end, or stops after an epoch."""
        until = {"runtime.stop_after_epoch": run.epochs if run.epochs < last_epoch else 0, "runtime.tensorboard": False}
        return self.task("train", run.name, run.params | until)

    def keep(self, run: Run, answer: Answer) -> None:
        """Write the outputs of a training on a machine that does not share this disk."""
        for name, content in answer.get("files", {}).items():
            files.atomic_write(self.runs / run.name / name, content)

    def remove(self) -> None:
        """Remove the copy, and what was run in it."""
        for path in (self.project, self.runs, self.folder / "clone"):
            files.remove(path)

    def publish(self, runs: Mapping[str, tuple[Run, Sequence[str]]]) -> None:
        """Make DVC experiments of finished runs.

        Args:
            runs: by the name of the experiment, each with the stages whose outputs it has; existing ones are left out.

        Raises:
            StageError: git failed.
            DvcException: DVC failed.
        """
        missing = {name: each for name, each in runs.items() if not experiment_references(ROOT, name)}
        if not missing:
            return
        clone = self._clone()
        with contextlib.chdir(clone), Repo() as repo:  # DVC takes paths from there
            for name, (run, stages) in missing.items():
                _copy(["params.yaml"], self.project, clone)
                with modify_yaml(str(clone / "params.yaml")) as params:  # keeps the comments
                    for key, value in run.params.items():
                        section, _, last = key.rpartition(".")
                        get_by_key(params, section)[last] = value
                self._place_results(clone, run, stages)
                for stage in stages:
                    repo.commit(stage, force=True)
                git(clone, "add", "--all")
                message = f"dvc: commit experiment {name}"
                commit = git(clone, "commit-tree", git(clone, "write-tree"), "-p", "HEAD", "-m", message)
                head = git(clone, "rev-parse", "HEAD")
                reference = f"refs/exps/{head[:2]}/{head[2:]}/{name}"  # where DVC keeps the experiments of a commit
                # Nobody else writes it, so a lock on it is of a git that was killed.
                (ROOT / git(ROOT, "rev-parse", "--git-path", f"{reference}.lock")).unlink(missing_ok=True)
                git(clone, "push", "--quiet", "--force", "origin", f"{commit}:{reference}")
        files.remove(clone)

    def _place_results(self, clone: Path, run: Run, stages: Sequence[str]) -> None:
        """Put the results of a run into the clone; what later stages made is of another model, and goes."""
        params = yaml_file.load((clone / "params.yaml").read_text(encoding="utf-8"))
        for stage in stages_from("train", clone / "dvc.yaml"):
            for path in read_declaration(stage, params, clone / "dvc.yaml").outs:
                files.remove(clone / path)
                if stage in stages:
                    link([path], self.runs / run.name, clone)
                elif git(clone, "ls-files", "--", path):  # metrics: `dvc exp show` calls a missing file an error
                    files.atomic_write(clone / path, portability.json_bytes({}))

    def _clone(self) -> Path:
        """A git clone with the files of the copy, its data, and DVC's cache and remotes."""
        clone, content = self.folder / "clone", json.loads(self._list.read_text())
        files.remove(clone)
        git(ROOT, "clone", "--quiet", "--shared", "--no-checkout", "--", str(ROOT), str(clone))
        git(clone, "update-ref", "--no-deref", "HEAD", content["commit"])
        git(clone, "reset", "--quiet")
        _copy(content["tracked"], self.project, clone)
        link(content["data"], self.project, clone)
        for key in ("user.name", "user.email"):  # the experiment's commit needs them
            known = subprocess.run(["git", "-C", ROOT, "config", key], capture_output=True, text=True, check=False)
            git(clone, "config", key, known.stdout.strip() or "unknown")
        with Repo(str(ROOT)) as repo:
            cache = os.path.abspath(repo.cache.local_cache_dir)
        if (own := ROOT / ".dvc/config.local").exists():
            shutil.copy(own, clone / ".dvc")
        with Config(str(clone / ".dvc"), validate=False).edit("local") as config:
            config.setdefault("cache", {})["dir"] = cache
            config.setdefault("core", {})["site_cache_dir"] = str(clone.resolve() / ".dvc/tmp/site-cache")
        return clone


def inputs(stages: Sequence[str], params: dict[str, Any]) -> list[str]:
    """The files and folders that the stages read and none of them writes.

    Raises:
        StageError: one is missing.
    """
    declared = [read_declaration(stage, params, ROOT / "dvc.yaml") for stage in stages]
    written = {path for stage in declared for path in stage.outs}
    found = sorted({path for stage in declared for path in stage.deps} - written)
    for path in found:
        if not (ROOT / path).exists():
            raise StageError(f"{path} is missing; `dvc repro {stages[0]}` makes what is needed")
    return found


def input_files(stages: Sequence[str], params: dict[str, Any]) -> list[str]:
    """The same as files."""
    return [file.as_posix() for path in inputs(stages, params) for file in files.iter_files(Path(path))]


def _copy(names: Iterable[str], source: Path, target: Path) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target / name)


def link(names: Iterable[str], source: Path, target: Path) -> None:
    """Hard links, or copies on another file system."""
    for file in (file for name in names for file in files.iter_files(source / name)):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file.resolve(), place)
        except OSError:
            shutil.copy2(file, place)
