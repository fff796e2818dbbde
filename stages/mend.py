"""Mend what DVC cannot read any more after it was stopped while it wrote: dvc.lock, and two kinds of files in .dvc/.

reads   dvc.lock, .dvc/tmp/rwlock, .dvc/cache/runs/
writes  dvc.lock, if it was cut off: the committed one; deletes the others that were cut off; prints a line for each
run     make repro does it first; or: python -m stages.mend
expect  a second, and nothing to do; nothing is done while another DVC is at work

DVC writes these files in place, which takes it some hundredths of a second a stage. A kill or a Ctrl-C just then leaves
a part, at which every later `dvc repro` stops. Nothing is lost with them: the whole entries of the run cache know what
has run.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as `python stages/mend.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib.runner import files

ROOT = Path(__file__).resolve().parents[1]
LOCK = Path("dvc.lock")


def mend_lock() -> None:
    """Put the committed dvc.lock in the place of a part of one. A merge conflict is no such part: git can tell."""
    unmerged = subprocess.run(["git", "ls-files", "--unmerged", LOCK], capture_output=True, check=False).stdout
    if not LOCK.exists() or unmerged or _dvc_can_read(LOCK):
        return
    committed = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True, check=False)
    if committed.returncode == 0:
        files.write_whole(LOCK, committed.stdout)
        print(f"mend: {LOCK} was cut off; the committed one is back, DVC's run cache has the rest")
    else:
        files.remove(LOCK)
        print(f"mend: {LOCK} was cut off and never committed; removed, DVC's run cache has what it said")


def _dvc_can_read(lock: Path) -> bool:
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils import strictyaml

    try:
        strictyaml.load(lock, COMPILED_LOCKFILE_SCHEMA)
    except DvcException:
        return False
    return True


def mend_locked_files(listed: Path) -> None:
    """Remove DVC's list of the files in use, if it is cut off."""
    try:
        json.loads(listed.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        files.remove(listed)
        print(f"mend: {listed} was cut off; removed, DVC makes a new one")


def mend_run_cache(runs: Path) -> None:
    """Remove entries that did not get their final names: DVC takes the newest entry, whatever its name."""
    for entry in runs.glob("*/*/*.tmp"):
        files.remove(entry)
        print(f"mend: {entry} was cut off; removed, the stage is recorded anew")


def main(argv: Sequence[str] | None = None) -> int:
    """Look at all three, as the only DVC at work."""
    argparse.ArgumentParser(
        prog="python -m stages.mend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    os.chdir(ROOT)
    try:
        repo = Repo()
        with repo.lock:
            mend_lock()
            mend_locked_files(Path(os.path.relpath(repo.tmp_dir), "rwlock"))
            mend_run_cache(Path(os.path.relpath(repo.stage_cache.cache_dir)))
    except LockError:
        return 0  # what is half written now is being written; and whoever runs `dvc` next is told
    except DvcException as error:
        print(f"mend: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
