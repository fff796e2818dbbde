"""Search for better hyperparameters: search.yaml says which ones vary, and how many are tried.

reads   search.yaml, params.yaml, data/annotations.csv, data/images; the test images for the winner only, at the end
writes  metrics/search.csv, metrics/search_confirmed.csv, metrics/search.html (all of them anew after each run), and DVC
        experiments; params.yaml, models and the branch stay as they are
run     python -m tools.search [--jobs N | --scheduler ADDRESS]
expect  a line for each run; docs/search.md has a search of the default recipe, and its time

All trials train until the first rung, the best of them go on to the next, from their checkpoints. The best of the last
rung is then trained again with fresh seeds, and so are the params as they are. Stop it with Ctrl-C, or pull the plug:
the same command goes on, to the same table.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifier.config import params_file
from classifier.errors import ParamsError, StageError, shorten
from classifier.experiments import decided, engine, search_results
from classifier.experiments import settings as search_settings
from classifier.experiments.halving import Halving, Run
from classifier.experiments.records import Records
from classifier.experiments.settings import Search
from classifier.experiments.snapshot import Snapshot
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
    return run_tool("search", parser, search, argv)


def search(arguments: argparse.Namespace) -> int:
    """Run what is missing, and write what is known.

    Raises:
        ParamsError: search.yaml is wrong, or the search began with other params, data or code.
        StageError: a run failed, for another reason than its params.
    """
    os.chdir(ROOT)
    if arguments.jobs < 1:
        raise ParamsError(f"--jobs: must be at least 1; it is {arguments.jobs}")
    params, content = params_file.read()
    settings = search_settings.read(params, content)
    folder = SCRATCH / f"search-{settings.name}"
    with exclusive("search", folder), engine.stoppable():
        if arguments.restart:
            for name in ("records", "project", "runs"):
                files.remove(folder / name)
        return go_on(arguments, settings, content, folder)


def go_on(arguments: argparse.Namespace, settings: Search, content: dict[str, Any], folder: Path) -> int:
    """Run what is missing; see ``search``."""
    records = Records(folder / "records")
    everything = decided.everything(content)
    with_settings = flatten({"search": settings.model_dump()}) | everything
    begin_or_go_on(with_settings, records)
    snapshot = Snapshot(folder, stages_from("train"), content)
    halving = Halving(settings, content, f"{settings.name}-{decided.digest(with_settings)[:4]}", records)
    progress = Progress(halving)
    if arguments.scheduler:
        workers = engine.dask(arguments.scheduler, folder, everything)
    else:
        workers = engine.processes(snapshot.project, arguments.jobs)
    with workers as submit:
        for run, answer in engine.drive(submit, halving.next_runs, snapshot.train):
            snapshot.keep(run, answer)
            records.add(run.key, engine.record(run, answer, settings.objective))
            progress.log(run)
            search_results.write(halving)
    if halving.best is None:
        reasons = sorted({record["error"] for record in records.values() if record.get("error")})
        raise StageError(f"no trial came to a result: {reasons[0]}")
    publish(snapshot, halving)
    search_results.write(halving)
    print("\n".join(search_results.summary(halving)))
    snapshot.remove()
    return 0


def begin_or_go_on(now: dict[str, Any], records: Records) -> None:
    """Begin the search with these settings, or make sure that it began with them.

    Raises:
        ParamsError: it did not.
    """
    if SETTINGS not in records:
        records.add(SETTINGS, now)
    if changed := decided.differing(records.pop(SETTINGS), now):
        raise ParamsError(
            f"{shorten(changed)} changed since this search began; change it back, give `name` in search.yaml another"
            " value, or begin anew with --restart"
        )


def publish(snapshot: Snapshot, halving: Halving) -> None:
    """Make DVC experiments of the best trial and of the runs with fresh seeds; the first model is evaluated, too."""
    train, *after = stages_from("train")
    first = halving.confirming()[0]
    runs = {f"{halving.prefix}-{run.name}": run for run in halving.confirming()}
    runs[f"{halving.prefix}-{halving.best:03}"] = halving.winner()
    runs = {name: run for name, run in runs.items() if (snapshot.runs / run.name / "metrics/train.json").exists()}
    if runs:  # else they were made by an earlier call
        logger.info(f"making {len(runs)} DVC experiments")
    if first in runs.values():
        with engine.processes(snapshot.project, jobs=1) as submit:
            for stage in after:
                engine.refuse_failure(stage, submit(snapshot.task(stage, first.name, first.params)).result())
    snapshot.publish({name: (run, [train, *after] if run == first else [train]) for name, run in runs.items()})


class Progress:
    """A line for each run that ends."""

    def __init__(self, halving: Halving):
        self._halving, self._since, self._epochs = halving, time.monotonic(), halving.epochs_left
        if halving.records:
            logger.info(f"going on: {len(halving.records)} runs are known")
        logger.info(f"{halving.search.trials} trials; {self._epochs} epochs to train")

    def log(self, run: Run) -> None:
        """Say how a run ended, and what is left."""
        halving, record = self._halving, self._halving.records[run.key]
        done = self._epochs - halving.epochs_left
        seconds = (time.monotonic() - self._since) / max(done, 1) * halving.epochs_left
        left = f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"
        result = record.get("error") or f"{halving.search.objective} {record['value']:.4f}"
        rung = halving.rungs.index(run.epochs)
        if run.name.startswith("trial") and (best := halving.leader(rung)) is not None:
            result += f" (best {halving.value(best, rung):.4f}, trial {best})"
        varied = [
            f"{search_results.short_name(key)}={run.params[key]}" for key in halving.search.space if key in run.params
        ]
        logger.info(f"{run.name}, epoch {run.epochs}: {result}, {left} left; {' '.join(varied)}")


if __name__ == "__main__":
    sys.exit(main())
