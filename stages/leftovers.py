"""What interrupted runs left in scratch/: list it, and remove what no run would go on from.

reads   scratch/; params.yaml and the inputs of the stages, to say whether the next run would go on from a state
writes  nothing; with --remove it deletes the states of other params, data or code, with --all every state
run     python -m stages.leftovers, or: make leftovers
expect  a line a state, two seconds (PyTorch reads the states); no state of a stage that is running is removed
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as `python stages/leftovers.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib import params
from stages.lib.runner import files, pipeline
from stages.lib.runner.errors import StageError
from stages.lib.runner.stage import ABOUT, SCRATCH, lock

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Leftover:
    """The state of one interrupted run."""

    folder: Path
    decided_by: dict[str, Any]  # what its name stands for; empty if it was not recorded
    differs: list[str]  # in what from the files that lie here now

    @property
    def stage(self) -> str:
        """The stage that left it."""
        return self.folder.name.rpartition("-")[0]

    def in_words(self) -> str:
        """One line: name, model, how far, size, age, and what becomes of it."""
        from stages.lib.train.checkpoint import Checkpoint

        parts = list(files.files_below(self.folder))
        state = Checkpoint(self.folder).load()
        model = self.decided_by.get("params", {}).get("train", {}).get("model")
        progress = f"step {state['step']:,}, epoch {len(state['curve']) + 1}" if state else "no state that can be read"
        stats = [part.stat() for part in parts if part.exists()]
        size = sum(stat.st_size for stat in stats) / 1e6
        hours = (time.time() - max((stat.st_mtime for stat in stats), default=0)) / 3600
        age = f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"
        known = "the next run goes on from it" if not self.differs else f"of other {', '.join(self.differs)}"
        return ", ".join(filter(None, [self.folder.name, model, progress, f"{size:.1f} MB", f"{age} old", known]))


def find() -> list[Leftover]:
    """All states in the scratch folder.

    Raises:
        ParamsError: params.yaml is wrong.
    """
    folders = sorted(path for path in SCRATCH.glob("*-*") if path.is_dir() and any(path.iterdir()))
    now = _now() if folders else {}
    found = []
    for folder in folders:
        try:
            decided_by = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found.append(Leftover(folder, {}, ["params, data or code, which it does not say"]))
            continue
        found.append(Leftover(folder, decided_by, _differences(folder.name.rpartition("-")[0], decided_by, now)))
    return found


def _now() -> dict[str, Any]:
    """What decides the result of a run that starts now, less its inputs, which depend on the stage."""
    from stages.lib.model import compute

    validated, plain = params.read()
    return {"params": plain, "environment": compute.environment(compute.prepare(validated.compute))}


def _differences(stage: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In what the run that left a state was another than the next one will be; its own values stand beside the keys."""
    declared = pipeline.declaration(stage, now["params"])
    chosen = {key: pipeline.lookup(now["params"], key) for key in declared.params}
    inputs = files.digests(path for path in declared.deps if Path(path).exists())
    differ = []
    for ours, theirs in ((before["params"], chosen), (before.get("environment", {}), now["environment"])):
        a, b = _leaves(ours), _leaves(theirs)
        differ += [
            f"{key} {a.get(key, '(none)')}" for key in {**a, **b} if (key in a, a.get(key)) != (key in b, b.get(key))
        ]
    return differ + [path for path in {**before["inputs"], **inputs} if before["inputs"].get(path) != inputs.get(path)]


def _leaves(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a section by their whole dotted keys."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def remove(leftover: Leftover) -> None:
    """Delete a state.

    Raises:
        StageError: a run of its stage holds it.
    """
    with lock(leftover.stage, wait_seconds=0):
        files.remove(leftover.folder)


def main(argv: Sequence[str] | None = None) -> int:
    """List, and remove if asked."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.leftovers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--remove", action="store_true", help="remove the states that no run would go on from")
    parser.add_argument("--all", action="store_true", help="with --remove: every state")
    arguments = parser.parse_args(argv)
    os.chdir(ROOT)
    try:
        found = find()
        for leftover in found:
            doomed = arguments.remove and bool(leftover.differs or arguments.all)
            line = leftover.in_words()
            if doomed:
                remove(leftover)
            print(f"{'removed: ' if doomed else ''}{line}")
    except StageError as error:
        print(f"leftovers: error: {error}", file=sys.stderr)
        return error.exit_status
    if not found:
        print(f"nothing in {SCRATCH}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
