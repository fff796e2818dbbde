"""Search for better hyperparameters: search.yaml says which ones vary, and how many are tried.

reads   search.yaml, params.yaml, data/annotations.csv, data/images.zip; the test images for the winner only, at the end
writes  metrics/search.csv, metrics/search_confirmed.csv, metrics/search.html (all of them anew after each run), and DVC
        experiments; params.yaml, models and the branch stay as they are
run     python -m tools.search [--jobs N | --scheduler ADDRESS]
expect  a line for each run; docs/search.md has a search of the default recipe, and its time

All trials train until the first rung, the best of them go on to the next, from their checkpoints. The best of the last
rung is then trained again with fresh seeds, and so are the params as they are. Stop it with Ctrl-C, or pull the plug:
the same command goes on, to the same table.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifier.config import params_file
from classifier.errors import ParamsError, StageError, shorten
from classifier.experiments import engine, space
from classifier.experiments import settings as search_settings
from classifier.experiments.halving import Halving, Run
from classifier.experiments.records import Record, Records
from classifier.experiments.search_results import Results
from classifier.experiments.settings import Search
from classifier.experiments.snapshot import Snapshot, input_files
from classifier.experiments.stage_process import Task
from classifier.runner import files
from classifier.runner.cli import ROOT, make_parser, run_tool
from classifier.runner.declaration import stages_from
from classifier.runner.lock import SCRATCH, exclusive
from classifier.yaml_file import flatten

SETTINGS = "settings"  # the record of what decides the search

logger = logging.getLogger("tools.search")


def main(argv: Sequence[str] | None = None) -> int:
    """Search, or go on with a search."""
    parser = make_parser("tools.search", __doc__)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time, which share the cores")
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="tcp://HOST:8786 or the file of a Dask scheduler, whose workers train"
    )
    parser.add_argument("--restart", action="store_true", help="forget the runs so far; experiments stay")
    parser.add_argument("--storage", help=argparse.SUPPRESS)
    return run_tool("search", parser, search, argv)


def search(arguments: argparse.Namespace) -> int:
    """Run what is missing, and write what is known.

    Raises:
        ParamsError: the space has a key that no trial reads, or the search began with other params, data or code.
        StageError: a run failed, for another reason than its params.
    """
    os.chdir(ROOT)
    if arguments.storage:
        raise ParamsError(
            "--storage: workers meet at a Dask scheduler now: --scheduler tcp://HOST:8786, docs/search.md"
        )
    if arguments.jobs < 1:
        raise ParamsError(f"--jobs: must be at least 1; it is {arguments.jobs}")
    params, content = params_file.read()
    settings = search_settings.read(params, content)
    space.validate_space(settings.space, content)
    folder = SCRATCH / f"search-{settings.name}"
    with exclusive("search", folder), engine.stoppable():
        if arguments.restart:
            for name in ("records", "project", "runs"):
                files.remove(folder / name)
        return go_on(arguments, settings, content, folder)


def go_on(arguments: argparse.Namespace, settings: Search, content: dict[str, Any], folder: Path) -> int:
    """Run what is missing; see ``search``."""
    records = Records(folder / "records")
    machine = engine.decided_by_machine(input_files(["train"], content), content)
    decided_by = {
        "params": engine.searched(content),
        "search": settings.model_dump(),
        **machine,
    }
    begin_or_go_on(decided_by, records)
    snapshot = Snapshot(folder, stages_from("train"), content)
    prefix = f"{settings.name}-{hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()[:4]}"
    halving = Halving(settings, content, prefix, records)
    progress = Progress(halving)

    def next_runs() -> list[Run]:
        return Halving(settings, content, prefix, records).next_runs()

    def task(run: Run) -> Task:
        return snapshot.train(run, content["train"]["epochs"])

    if arguments.scheduler:
        workers = engine.dask(arguments.scheduler, folder, machine | {"params": engine.searched(content)})
    else:
        workers = engine.processes(snapshot.project, arguments.jobs)
    with workers as submit:
        for run, answer in engine.drive(submit, next_runs, task):
            snapshot.keep(run, answer)
            records.add(run.key, engine.record(run, answer, settings.objective))
            halving = Halving(settings, content, prefix, records)
            progress.log(run, records[run.key], halving)
            Results(halving).write()
    if halving.best is None:
        reasons = sorted({record["error"] for record in halving.records.values() if record.get("error")})
        raise StageError(f"no trial came to a result: {reasons[0]}")
    publish(snapshot, halving)
    Results(halving).write()
    print("\n".join(Results(halving).summary()))
    snapshot.remove()
    return 0


def begin_or_go_on(decided_by: dict[str, Any], records: Records) -> None:
    """Begin the search with these settings, or make sure that it began with them.

    Raises:
        ParamsError: it did not.
    """
    if SETTINGS not in records:
        records.add(SETTINGS, decided_by)
    if (kept := records.pop(SETTINGS)) == decided_by:
        return
    before, now = (
        flatten({"search": whole["search"], **whole["params"]}) | whole["inputs"] | whole["versions"]
        for whole in (kept, decided_by)
    )
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)] or ["processor"]
    raise ParamsError(
        f"{shorten(changed)} changed since this search began; change it back, give `name` in search.yaml another value,"
        " or begin anew with --restart"
    )


def publish(snapshot: Snapshot, halving: Halving) -> None:
    """Make DVC experiments of the best trial and of the runs with fresh seeds; the first model is evaluated, too."""
    train, *after = stages_from("train")
    first, winner = halving.confirming("best", 0), halving.winner()
    runs = {halving.experiment(*place): halving.confirming(*place) for place in halving.places}
    runs = {f"{halving.prefix}-{halving.best:03}": winner} | runs
    runs = {name: run for name, run in runs.items() if (snapshot.runs / run.name / "metrics/train.json").exists()}
    if runs:  # else they were made by an earlier call
        logger.info(f"making {len(runs)} DVC experiments")
    if first in runs.values():
        with engine.processes(snapshot.project, jobs=1) as submit:
            for stage in after:
                engine.refuse_failure(stage, submit(snapshot.task(stage, first.name, first.params)).result())
    snapshot.publish({name: (run, [train, *after] if run == first else [train]) for name, run in runs.items()})


class Progress:
    """A line for each run that ends.

    Args:
        halving: the state at the beginning.
    """

    def __init__(self, halving: Halving):
        self._since, self._left = time.monotonic(), halving.epochs_left
        if halving.records:
            logger.info(f"going on: {len(halving.records)} runs are known")
        logger.info(f"{halving.search.trials} trials; {self._left} epochs to train")

    def log(self, run: Run, record: Record, halving: Halving) -> None:
        """Say how a run ended, and what is left."""
        done = self._left - halving.epochs_left
        seconds = (time.monotonic() - self._since) / max(done, 1) * halving.epochs_left
        left = f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"
        result = record.get("error") or f"{halving.search.objective} {record['value']:.4f}"
        best = halving.leader(halving.rungs.index(run.epochs)) if run.name.startswith("trial") else None
        leader = f" (best {best[1]:.4f}, trial {best[0]})" if best else ""
        varied = " ".join(
            f"{name}={value:.3g}" if isinstance(value := run.params[key], float) else f"{name}={value}"
            for key, name in halving.short_names().items()
            if key in run.params
        )
        logger.info(f"{run.name}, epoch {run.epochs}: {result}{leader}, {left} left{f'; {varied}' if varied else ''}")


if __name__ == "__main__":
    sys.exit(main())
