"""The checkpoints of interrupted runs in scratch/: list them, and prune those of other params, data or code.

reads   scratch/; params.yaml and the inputs of the stages, to tell whether the next run would resume from a checkpoint
writes  nothing; `prune` deletes the checkpoints of other params, data or code, those of `-S` and of experiments too;
        `prune --all` every checkpoint
run     python -m tools.checkpoints [list | prune [--all]]
expect  a line a run, two seconds (PyTorch reads the checkpoints); those of a stage that is running are never removed
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifier.config import params_file
from classifier.model import compute
from classifier.portability import pin_instruction_set
from classifier.runner import files, packages
from classifier.runner.cli import ROOT, make_parser, run_tool
from classifier.runner.context import FINGERPRINT_FILE
from classifier.runner.declaration import get_by_key, read_declaration
from classifier.runner.lock import SCRATCH, exclusive
from classifier.train.checkpoint import Checkpoint
from classifier.yaml_file import flatten

RUN_FOLDERS = "train-" + "[0-9a-f]" * 16  # as StageContext.fingerprint names them; no other stage has checkpoints


def describe(folder: Path, differs: list[str]) -> str:
    """One line on an interrupted run: name, model, progress, size, age, and whether the next run resumes from it."""
    state = Checkpoint(folder).load()
    model = decided_by(folder).get("train.model")
    progress = f"step {state['step']:,}, epoch {len(state['history']) + 1}" if state else "no readable checkpoint"
    stats = [file.stat() for file in files.iter_files(folder) if file.exists()]
    size = sum(stat.st_size for stat in stats) / 1e6
    # never negative: the clock may have been set back
    hours = max(0, time.time() - max((stat.st_mtime for stat in stats), default=0)) / 3600
    age = f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"
    fate = "the next run resumes from it" if not differs else f"of other {', '.join(differs)}"
    return ", ".join(filter(None, [folder.name, model, progress, f"{size:.1f} MB", f"{age} old", fate]))


def decided_by(folder: Path) -> dict[str, Any]:
    """All that decides the result of an interrupted run, by its whole key; empty if that was not recorded."""
    try:
        recorded = json.loads((folder / FINGERPRINT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for part in recorded.values() for key, value in flatten(part).items()}


def next_run() -> dict[str, Any]:
    """The same of a run that starts now.

    Raises:
        ParamsError: params.yaml is wrong.
    """
    params, plain = params_file.read()
    pin_instruction_set(params.compute.portable)
    declared = read_declaration("train", plain)
    backend = compute.prepare(params.compute, params.runtime.threads, params.train)
    inputs = files.digests(path for path in declared.deps if Path(path).exists())
    chosen = {key: get_by_key(plain, key) for key in declared.params}
    environment = compute.deciding(compute.environment(backend))
    return {**flatten(chosen), **environment, **packages.installed(declared.packages), **inputs}


def main(argv: Sequence[str] | None = None) -> int:
    """List, and prune if asked."""
    parser = make_parser("tools.checkpoints", __doc__)
    commands = parser.add_subparsers(dest="command", metavar="list | prune")
    commands.add_parser("list", help="list the checkpoints of interrupted runs (the default)")
    prune = commands.add_parser("prune", help="remove those of other params, data or code than the present ones")
    prune.add_argument("--all", action="store_true", help="remove all of them")
    return run_tool("checkpoints", parser, list_and_prune, argv)


def list_and_prune(arguments: argparse.Namespace) -> int:
    """Print a line for each interrupted run, removed or not."""
    os.chdir(ROOT)
    found = sorted(folder for folder in SCRATCH.glob(RUN_FOLDERS) if any(folder.iterdir()))
    is_pruned = arguments.command == "prune"
    every = is_pruned and arguments.all
    now = next_run() if found and not every else {}  # params.yaml may be wrong
    for folder in found:
        before = decided_by(folder)
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        differs = [key if "/" in key else f"{key} {before.get(key, '(none)')}" for key in keys]  # of a file the name
        if not before:
            differs = ["params, data or code, which it does not tell"]
        line = folder.name if every else describe(folder, differs)
        if every or (is_pruned and differs):
            with exclusive("train", folder, wait_seconds=0):
                files.remove(folder)
            line = f"removed: {line}"
        print(line)
    if not found:
        print(f"nothing in {SCRATCH}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
