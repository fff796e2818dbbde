"""Mend what DVC cannot read any more after it was killed while it wrote: its dvc.lock, or its list of locked files.

reads   dvc.lock, .dvc/tmp/rwlock
writes  the same, if a killed DVC left them cut off; a line for each
run     make repro does it first; or: python -m stages.mend
expect  half a second, and nothing to do

DVC empties these two files before it writes them anew, which takes it some hundredths of a second a stage. A kill
then leaves a part, at which every later `dvc` stops. Nothing is lost with them: the run cache knows what has run.
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

from stages.lib import files

ROOT = Path(__file__).resolve().parents[1]
LOCK = Path("dvc.lock")
LOCKED_FILES = Path(".dvc/tmp/rwlock")


def is_readable(lock: Path) -> bool:
    """Whether DVC would take a file as its dvc.lock."""
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils import strictyaml

    try:
        strictyaml.load(lock, COMPILED_LOCKFILE_SCHEMA)
    except DvcException:
        return False
    return True


def mend_lock() -> None:
    """Put the committed dvc.lock in the place of a part of one. A merge conflict is no such part: git can tell."""
    unmerged = subprocess.run(["git", "ls-files", "--unmerged", LOCK], capture_output=True, check=False).stdout
    if not LOCK.exists() or unmerged or is_readable(LOCK):
        return
    committed = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True, check=False)
    if committed.returncode == 0:
        files.write_whole(LOCK, committed.stdout)
        print(f"mend: {LOCK} was cut off by a kill; the committed one is back, DVC's run cache has the rest")
    else:
        files.remove(LOCK)
        print(f"mend: {LOCK} was cut off by a kill and never committed; removed, DVC's run cache has what it said")


def mend_locked_files() -> None:
    """Remove DVC's list of the files in use if it is cut off. Whoever writes it holds the lock that is taken here."""
    from dvc.lock import Lock, LockError

    if not LOCKED_FILES.exists():
        return
    try:
        with Lock(f"{LOCKED_FILES}.lock"):
            if not _is_json(LOCKED_FILES):
                files.remove(LOCKED_FILES)
                print(f"mend: {LOCKED_FILES} was cut off by a kill; removed, DVC makes a new one")
    except LockError:
        return  # a living DVC is writing it


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Look at both files."""
    argparse.ArgumentParser(
        prog="python -m stages.mend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    os.chdir(ROOT)
    mend_lock()
    mend_locked_files()
    return 0


if __name__ == "__main__":
    sys.exit(main())
