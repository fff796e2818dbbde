"""The origin of the clones of a search or comparison, so that many run while the workspace stays as it is.

A clone has the code and params of the workspace, hard links to its data, and DVC's cache in common with it.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier.errors import StageError
from classifier.experiments.clone import Clone, check_out
from classifier.experiments.git import git
from classifier.runner import files
from classifier.runner.declaration import read_declaration
from classifier.runner.lock import SCRATCH

import filelock
from dvc.config import Config
from dvc.repo import Repo


class Workspace:
    """The origin of the clones: a commit, the changes since, and the data.

    Args:
        root: of the project.
        folder: for the clones and for links to the data, below ``scratch/``.
        stages: that will run in the clones; the data that they read are linked.

    Attributes:
        alone: a lock. Two workers may be in one folder, as in an array of jobs; git's index, the links and the tables
            stand only one at a time.
    """

    def __init__(self, root: Path, folder: Path, stages: Sequence[str]):

        self.root, self.folder, self.stages = root, folder, stages
        try:
            self.commit = git(root, "rev-parse", "--verify", "HEAD")
        except StageError as error:
            raise StageError(
                f"this needs git: every run becomes an experiment of a commit; `git init`, add, commit ({error})"
            ) from None
        self.alone = filelock.FileLock(SCRATCH / "workspace.lock")
        SCRATCH.mkdir(exist_ok=True)
        with self.alone:
            # In a copy of the index: a git that is killed leaves its index locked, and this one is the person's.
            index = SCRATCH / "workspace.index"
            shutil.copy(root / git(root, "rev-parse", "--git-path", "index"), index)
            git(root, "status", "--short", index=index)  # in a copied folder every file would look changed
            # A commit of the changed files that no branch knows; empty if there are none.
            identity = ("-c", "user.name=unknown", "-c", "user.email=unknown")
            self._changes = git(root, *identity, "stash", "create", index=index) or self.commit
            index.unlink()
            git(root, "update-ref", f"refs/runs/{folder.name}", self._changes)  # or git might remove it after weeks

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
        """The files that the stages read and none of them writes."""
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

    def clone(self, name: str) -> Clone:
        """The clone of that name, which may have begun its work."""
        path = self.folder / name
        if not path.exists():
            making = self.folder / f".tmp.{name}"
            files.remove(making)
            making.parent.mkdir(parents=True, exist_ok=True)
            git(self.root, "clone", "--quiet", "--shared", "--no-checkout", "--", str(self.root), str(making.resolve()))
            # A clone of a shallow clone shares no objects.
            git(making, "fetch", "--quiet", "origin", f"refs/runs/{self.folder.name}")
            check_out(making, self.commit, self._changes)
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
        return Clone(path, self.root, self.commit, self._changes)

    def _configure_dvc(self, clone: Path) -> None:
        """The remotes and the cache of the workspace, and no files outside the clone."""
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
