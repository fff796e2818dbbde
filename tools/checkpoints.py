"""The checkpoints of interrupted runs in scratch/: list them, and prune those that no run would resume from.

reads   scratch/; params.yaml and the inputs of the stages, to tell whether the next run would resume from a checkpoint
writes  nothing; `prune` deletes the checkpoints of other params, data or code, `prune --all` every checkpoint
run     python -m tools.checkpoints [list | prune [--all]]
expect  a line a run, two seconds (PyTorch reads the checkpoints); those of a stage that is running are never removed
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.config import params_file
from classifier.model import compute
from classifier.runner import files, packages
from classifier.runner.cli import ROOT, make_parser, run_tool
from classifier.runner.context import FINGERPRINT_FILE
from classifier.runner.declaration import get_by_key, read_declaration
from classifier.runner.lock import SCRATCH, exclusive
from classifier.train.checkpoint import Checkpoint
from classifier.yaml_file import flatten

RUN_FOLDER = re.compile(r"(?P<stage>[a-z]+)-[0-9a-f]{16}")  # as StageContext.fingerprint names it


@dataclass(frozen=True)
class InterruptedRun:
    """The checkpoints of one interrupted run.

    Attributes:
        folder: in scratch/.
        decided_by: what its name stands for; empty if that was not recorded.
        differs: in what from the files in the workspace.
    """

    folder: Path
    decided_by: dict[str, Any]
    differs: list[str]

    @property
    def stage(self) -> str:
        """The stage that was interrupted."""
        return self.folder.name.rpartition("-")[0]

    def describe(self) -> str:
        """One line: name, model, progress, size, age, and whether the next run resumes from it."""
        parts = list(files.iter_files(self.folder))
        state = Checkpoint(self.folder).load()
        model = self.decided_by.get("params", {}).get("train", {}).get("model")
        progress = f"step {state['step']:,}, epoch {len(state['history']) + 1}" if state else "no readable checkpoint"
        stats = [part.stat() for part in parts if part.exists()]
        size = sum(stat.st_size for stat in stats) / 1e6
        # never negative: the clock may have been set back
        hours = max(0, time.time() - max((stat.st_mtime for stat in stats), default=0)) / 3600
        age = f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"
        fate = "the next run resumes from it" if not self.differs else f"of other {', '.join(self.differs)}"
        return ", ".join(filter(None, [self.folder.name, model, progress, f"{size:.1f} MB", f"{age} old", fate]))


def find() -> list[InterruptedRun]:
    """All interrupted runs in the scratch folder.

    Raises:
        ParamsError: params.yaml is wrong.
    """
    folders = sorted(
        path
        for path in SCRATCH.glob("*")
        if RUN_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink() and any(path.iterdir())
    )
    now = _now() if folders else {}
    found = []
    for folder in folders:
        try:
            decided_by = json.loads((folder / FINGERPRINT_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found.append(InterruptedRun(folder, {}, ["params, data or code, which it does not tell"]))
            continue
        found.append(InterruptedRun(folder, decided_by, _differences(folder.name.rpartition("-")[0], decided_by, now)))
    return found


def _now() -> dict[str, Any]:
    """All that decides the result of a run that starts now, except its inputs, which depend on the stage."""
    validated, plain = params_file.read()
    backend = compute.prepare(validated.compute, validated.runtime.threads, validated.train.world_size)
    return {"params": plain, "environment": compute.deciding(compute.environment(backend))}


def _differences(stage: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In what the interrupted run differs from the next one; its own values follow the keys."""
    declared = read_declaration(stage, now["params"])
    chosen = {key: get_by_key(now["params"], key) for key in declared.params}
    inputs = files.digests(path for path in declared.deps if Path(path).exists())
    differ = []
    groups = ((before["params"], chosen), (before.get("environment", {}), now["environment"]))
    for ours, current in (*groups, (before.get("packages", {}), packages.installed(declared.packages))):
        a, b = flatten(ours), flatten(current)
        differ += [
            f"{key} {a.get(key, '(none)')}" for key in {**a, **b} if (key in a, a.get(key)) != (key in b, b.get(key))
        ]
    return differ + [path for path in {**before["inputs"], **inputs} if before["inputs"].get(path) != inputs.get(path)]


def remove(run: InterruptedRun) -> None:
    """Delete its checkpoints.

    Raises:
        StageError: the stage is running.
    """
    with exclusive(run.stage, run.folder, wait_seconds=0):
        files.remove(run.folder)


def main(argv: Sequence[str] | None = None) -> int:
    """List, and prune if asked."""
    parser = make_parser("tools.checkpoints", __doc__)
    commands = parser.add_subparsers(dest="command", metavar="list | prune")
    commands.add_parser("list", help="list the checkpoints of interrupted runs (the default)")
    prune = commands.add_parser("prune", help="remove those that no run would resume from")
    prune.add_argument("--all", action="store_true", help="remove all of them")
    return run_tool("checkpoints", parser, list_and_prune, argv)


def list_and_prune(arguments: argparse.Namespace) -> int:
    """Print a line for each interrupted run, removed or not."""
    os.chdir(ROOT)
    found = find()
    for run in found:
        line = run.describe()
        if arguments.command == "prune" and (run.differs or arguments.all):
            remove(run)
            line = f"removed: {line}"
        print(line)
    if not found:
        print(f"nothing in {SCRATCH}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
