"""Repair what a killed DVC leaves: truncated files, and no branch.

reads   dvc.lock, .dvc/tmp/rwlock, .dvc/cache/runs/, the files that git tracks
writes  dvc.lock, if it was truncated: the committed one; deletes truncated files of the other two kinds; git's HEAD;
        logs each
run     make repro does it first; or: python -m tools.repair
expect  a second, and nothing to do; nothing is done while another DVC is running

DVC writes these files in place, which takes some hundredths of a second a stage. A kill or a Ctrl-C just then leaves a
truncated file, at which every later `dvc repro` stops. Nothing is lost with it: the intact entries of the run cache
know what has run.

`dvc exp run` leaves the branch while it works. If it is killed, git says "HEAD detached", and no branch would have the
next commit.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from classifier.errors import StageError
from classifier.experiments.git import git
from classifier.runner import files
from classifier.runner.cli import ROOT, distrust, make_parser, run_tool

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.scm import SCMError
from dvc.utils import strictyaml

logger = logging.getLogger("tools.repair")

LOCK = Path("dvc.lock")
EXP_RUN = "refs/exps/exec/"  # there while `dvc exp run` works


def repair_lock() -> None:
    """Replace a truncated dvc.lock by the committed one. One with a merge conflict is left alone: git can tell.

    Raises:
        StageError: git does not answer, so that nobody can tell what was committed.
    """
    if not LOCK.exists():
        return
    with contextlib.suppress(DvcException):  # it cannot be read
        strictyaml.load(LOCK, COMPILED_LOCKFILE_SCHEMA)
        return
    try:
        if git(ROOT, "ls-files", "--unmerged", str(LOCK)):
            return
        committed = git(ROOT, "ls-tree", "HEAD", str(LOCK)) and git(ROOT, "show", f"HEAD:./{LOCK}") + "\n"
    except (StageError, OSError) as error:
        raise StageError(f"{LOCK} cannot be read, and git cannot restore it: {error}") from None
    if committed:
        files.atomic_write(LOCK, committed.encode())
        logger.info(f"{LOCK} was truncated; the committed one is restored, DVC's run cache has the rest")
    else:
        files.remove(LOCK)
        logger.info(f"{LOCK} was truncated and never committed; removed, DVC's run cache has its content")


def repair_rwlock(path: Path) -> None:
    """Remove DVC's list of the files in use, if it is truncated."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        files.remove(path)
        logger.info(f"{path} was truncated; removed, DVC makes a new one")


def repair_head(repo: Repo) -> None:
    """Go back to the branch that a killed `dvc exp run` has left; files stay as they are."""
    try:
        name, commit = git(ROOT, "branch", "--show-current"), git(ROOT, "rev-parse", "HEAD")
        # DVC's own lock is free while a stage of the run works.
        if name or not git(ROOT, "for-each-ref", EXP_RUN) or repo.experiments.workspace_queue._active_pid:
            return
        # git's words for the latest move of HEAD, if that was the one to this commit.
        words = git(ROOT, "reflog", "-1", "--format=%gs")
        branch = words.removeprefix("checkout: moving from ").removesuffix(f" to {commit}")
        if git(ROOT, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}") != commit:
            return
        git(ROOT, "symbolic-ref", "-m", "repair: back to the branch", "HEAD", f"refs/heads/{branch}")
        # DVC's, for an experiment's commit.
        git(ROOT, "rm", "--quiet", "--cached", "--ignore-unmatch", ".dvc/tmp/repro.dat")
        for reference in git(ROOT, "for-each-ref", "--format=%(refname)", EXP_RUN).split():
            git(ROOT, "update-ref", "--no-deref", "-d", reference)
    except (StageError, OSError) as error:
        if line := distrust(error):
            logger.warning(line)
        return  # without git there are no experiments
    logger.info(f"a `dvc exp run` was killed and had left the branch; back on {branch}")


def main(argv: Sequence[str] | None = None) -> int:
    """Look at all of them, as the only DVC that is running."""
    return run_tool("repair", make_parser("tools.repair", __doc__), repair, argv)


def repair(arguments: argparse.Namespace) -> int:
    """Repair what is truncated.

    Raises:
        StageError: this is not a DVC repository, or git cannot restore dvc.lock.
    """
    os.chdir(ROOT)
    try:
        repo = Repo()
        with repo.lock:
            repair_lock()
            repair_rwlock(Path(os.path.relpath(repo.tmp_dir), "rwlock"))
            # Entries that did not get their final names: DVC takes the newest entry, whatever its name.
            for entry in Path(os.path.relpath(repo.stage_cache.cache_dir)).glob("*/*/*.tmp"):
                files.remove(entry)
                logger.info(f"{entry} was truncated; removed, the stage is recorded anew")
            repair_head(repo)
    except LockError:
        return 0  # what is half written now is being written; and whoever runs `dvc` next is told
    except SCMError as error:
        raise StageError(f"{error}; `git init` makes one, or `dvc config core.no_scm true` does without") from None
    except DvcException as error:
        raise StageError(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
