"""A copy of the project as it is, in which trainings run while the person goes on working; and experiments of them.

Tracked files are copied, data are hard links. The trainings write below a folder of their own, so one copy serves all.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier import portability, yaml_file
from classifier.errors import StageError
from classifier.experiments.decided import inputs
from classifier.experiments.git import commit_folder, git, resolve
from classifier.experiments.halving import Run
from classifier.experiments.stage_process import Answer, Task
from classifier.runner import files
from classifier.runner.cli import ROOT
from classifier.runner.declaration import get_by_key, read_declaration, stages_from
from classifier.runner.lock import SCRATCH

from dvc.repo import Repo
from dvc.utils.serialize import modify_yaml

CODE = ("classifier", "stages")  # where files that git does not track yet are needed, too
COMMIT = SCRATCH / "commit"  # in the copy: the commit that experiments belong to


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
        if self.project.exists():
            return
        try:
            commit = git(ROOT, "rev-parse", "--verify", "HEAD")
        except StageError as error:
            raise StageError(
                f"this needs git: experiments belong to a commit; `git init`, `git add`, `git commit` ({error})"
            ) from None
        listed = git(ROOT, "ls-files", "-z") + git(ROOT, "ls-files", "-z", "--others", "--exclude-standard", *CODE)
        tracked = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
        folders = {str(folder) for name in tracked for folder in Path(name).parents}
        data = [path for path in inputs(stages, params) if path not in {*tracked, *folders}]
        making = self.folder / ".tmp.project"
        files.remove(making)
        for name in tracked:
            (making / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, making / name)
        link(data, ROOT, making)
        files.atomic_write(making / COMMIT, commit.encode())
        making.rename(self.project)

    def task(self, stage: str, name: str, overrides: dict[str, Any]) -> Task:
        """A stage to run with other params, whose outputs go to the folder of that name."""
        out = str(self.runs / name)
        return {"stage": stage, "overrides": overrides, "out": out, "log": f"{out}.log"}

    def train(self, run: Run) -> Task:
        """The task of a run; it goes to its end, or stops after an epoch."""
        until = {"runtime.stop_after_epoch": run.epochs if run.goes_on else 0, "runtime.tensorboard": False}
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
        clone, head = self.folder / "clone", (self.project / COMMIT).read_text()
        for name, (run, stages) in runs.items():
            if resolve(ROOT, name) != name:
                continue
            files.remove(clone)
            shutil.copytree(self.project, clone, copy_function=files.link_or_copy)
            self._set_params(clone, run)
            self._place_results(clone, run, stages)
            with contextlib.chdir(clone), dvc_without_git(clone) as repo:  # DVC takes paths from there
                for stage in stages:
                    repo.commit(stage, force=True)
            reference = f"refs/exps/{head[:2]}/{head[2:]}/{name}"  # where DVC keeps the experiments of a commit
            commit_folder(clone, head, reference, f"dvc: commit experiment {name}")
        files.remove(clone)

    def _set_params(self, clone: Path, run: Run) -> None:
        for name in ("params.yaml", "dvc.lock"):  # are written in place, which a hard link must not be
            (clone / name).unlink(missing_ok=True)
            if (self.project / name).exists():
                shutil.copy2(self.project / name, clone / name)
        with modify_yaml(str(clone / "params.yaml")) as params:  # keeps the comments
            for key, value in run.params.items():
                section, _, last = key.rpartition(".")
                get_by_key(params, section)[last] = value

    def _place_results(self, clone: Path, run: Run, stages: Sequence[str]) -> None:
        """Put the results of a run into the clone; what later stages made is of another model, and goes."""
        params = yaml_file.load((clone / "params.yaml").read_text(encoding="utf-8"))
        for stage in stages_from("train"):
            for path in read_declaration(stage, params, clone / "dvc.yaml").outs:
                was_tracked = (clone / path).exists()  # metrics: `dvc exp show` calls a missing file an error
                files.remove(clone / path)
                if stage in stages:
                    link([path], self.runs / run.name, clone)
                elif was_tracked:
                    files.atomic_write(clone / path, portability.json_bytes({}))


def dvc_without_git(clone: Path) -> Repo:
    """DVC in a copy of the project, with the cache and the settings of the project itself."""
    with Repo(str(ROOT)) as own:
        cache = own.config["cache"] | {"dir": os.path.abspath(own.cache.local_cache_dir)}
        core = own.config["core"] | {"no_scm": True, "site_cache_dir": str(clone / ".dvc/tmp/site-cache")}
        return Repo(str(clone), config={**own.config, "cache": cache, "core": core})


def link(names: Iterable[str], source: Path, target: Path) -> None:
    """Give files and folders a second name below another folder, in place of files of that name."""
    for file in (file for name in names for file in files.iter_files(source / name)):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        files.link_or_copy(file, place)
