"""List what takes the disk in this clone, and remove what nothing reachable needs, once you agree.

reads   DVC's cache and experiments; scratch/, .dvc/tmp/, .venv
writes  nothing before you agree; then removes what `dvc gc` finds unused, and the checkpoints of other params, data or
        code than the present ones, as `python -m tools.checkpoints prune` does
run     python -m tools.clean [--yes] [--cache FOLDER]; no experiment or search may run meanwhile
expect  some seconds; what the workspace, a branch, a tag or an experiment needs stays

Unused are the results of earlier commits, of params that were tried and of removed experiments; `dvc repro` can compute
them again. Branches that only a git remote has do not count.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from classifier import yaml_file
from classifier.errors import StageError
from classifier.experiments.git import git
from classifier.kernels import library
from classifier.runner.cli import ROOT, make_parser, run_tool
from classifier.runner.lock import SCRATCH
from tools import checkpoints

IN_GIT = ("--workspace", "--all-branches", "--all-tags")
KEPT = (*IN_GIT, "--all-experiments")


def dvc(*words: str) -> str:
    """Run a command of DVC and return its output.

    Raises:
        StageError: it failed, with DVC's reason.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR: ")), "ERROR: failed")
        raise StageError(f"dvc {words[0]}: {reason.removeprefix('ERROR: ')}")
    return done.stdout


def unused(flags: Iterable[str]) -> list[Path]:
    """The files of the cache that `dvc gc` would remove."""
    lines = dvc("gc", "--dry", *flags).splitlines()
    return [Path(line.removeprefix("Removing ")) for line in lines if line.startswith("Removing ")]


def size(paths: Iterable[Path]) -> str:
    """The size of files and folders; a file with several names counts for its share."""
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    stats = (file.lstat() for file in files if file.is_file())
    return f"{sum(stat.st_size / stat.st_nlink for stat in stats) / 1e6:,.1f} MB"


def by_kind(cache: Path, found: Iterable[Path]) -> dict[str, list[Path]]:
    """Files of the cache by the folder that they were outputs in, as far as DVC's run cache knows."""
    runs = [yaml_file.load(entry.read_text(encoding="utf-8")) for entry in (cache / "runs").glob("*/*/*")]
    folders = {out["md5"]: out["path"].partition("/")[0] + "/" for run in runs for out in run["outs"]}
    kinds = defaultdict(list)
    for path in found:
        kinds[folders.get(path.parent.name + path.name, "other")].append(path)
    return dict(sorted(kinds.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """List, ask, remove."""
    parser = make_parser("tools.clean", __doc__)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="a cache outside this clone, to be cleaned too")
    return run_tool("clean", parser, clean, argv)


def clean(arguments: argparse.Namespace) -> int:
    """Print all that takes room; remove what may go.

    Raises:
        StageError: the cache is outside this clone; DVC failed.
    """
    os.chdir(ROOT)
    cache = Path(dvc("cache", "dir").strip()).resolve()
    if not cache.is_relative_to(ROOT.resolve()) and not (arguments.cache and arguments.cache.resolve() == cache):
        raise StageError(
            f"the cache {cache} is outside this clone, so others may use it; if none does: --cache {cache}"
        )
    going = unused(KEPT)
    only_experiments = {*unused(IN_GIT)} - {*going}
    experiments = git(ROOT, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").splitlines()
    print(f"DVC cache {cache}: {size([cache])}")
    print(f"  only for {len(experiments)} experiments: {size(only_experiments)} (`dvc exp remove NAME`)")
    print(f"  unused: {size(going)}")
    for name, paths in by_kind(cache, going).items():
        ages = [max(0, time.time() - path.stat().st_mtime) / 86400 for path in paths]
        print(f"    {name}: {len(paths)} files, {size(paths)}, {min(ages):.0f} to {max(ages):.0f} days old")
    folders = [path for path in sorted(SCRATCH.glob("*")) if path.is_dir() and not path.match(checkpoints.RUN_FOLDERS)]
    for path in (*folders, Path(".dvc/tmp"), *sorted(Path().glob(".venv*"))):
        print(f"{path}: {size([path])} (stays)")
    current = {library.file_name(name) for name in library.instruction_sets()}
    kernels = Path(sysconfig.get_path("platlib")).glob("classifier_kernels_*.so")
    old = [path for path in kernels if path.name not in current]
    print(f"{len(old)} kernels compiled from other sources: {size(old)} (stay: clones may share the environment)")
    print("checkpoints:")
    checkpoints.list_and_prune(argparse.Namespace(command="list"))
    if not arguments.yes:
        print("Remove what is unused, and checkpoints of other params, data or code? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return 0
    dvc("gc", "--force", *KEPT)
    print(f"removed: {len(going)} files of the cache")
    return checkpoints.list_and_prune(argparse.Namespace(command="prune", all=False))


if __name__ == "__main__":
    sys.exit(main())
