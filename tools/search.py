"""Search for better hyperparameters: search.yaml says which ones vary, and how many are tried.

reads   search.yaml, params.yaml, data/annotations.csv, data/images.zip; the test images for the winner only, at the end
writes  metrics/search.csv, metrics/search_confirmed.csv, metrics/search.html, and DVC experiments; params.yaml, models
        and the branch stay as they are
run     python -m tools.search [--jobs N]
expect  a line for each run; docs/search.md has a search of the default recipe, and its time

All trials train until the first rung, the best of them go on to the next, from their checkpoints. The best of the last
rung is then trained again with fresh seeds, and so are the params as they are. Stop it with Ctrl-C, or pull the plug:
the same command goes on, to the same table.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from classifier.config import params_file
from classifier.errors import ParamsError, StageError, shorten
from classifier.experiments import settings as search_settings
from classifier.experiments import space
from classifier.experiments.clone import Stopped
from classifier.experiments.git import git
from classifier.experiments.halving import Halving, Run
from classifier.experiments.search_results import Results
from classifier.experiments.settings import SEARCHED, Search
from classifier.experiments.storage import SETTINGS, FileStorage, PostgresStorage, Record, Storage
from classifier.experiments.workers import Workers
from classifier.experiments.workspace import Workspace
from classifier.runner import files
from classifier.runner.cli import ROOT, make_parser, run_tool
from classifier.runner.declaration import read_declaration, stages_from
from classifier.runner.lock import SCRATCH
from classifier.yaml_file import flatten

logger = logging.getLogger("tools.search")


def main(argv: Sequence[str] | None = None) -> int:
    """Search, or go on with a search."""
    parser = make_parser("tools.search", __doc__)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time, which share the cores")
    parser.add_argument("--restart", action="store_true", help="forget the runs so far; finished experiments stay")
    parser.add_argument(
        "--storage",
        metavar="URL",
        default=os.environ.get("SEARCH_STORAGE", ""),
        help="postgresql://USER@HOST/DATABASE, where workers on several machines meet (or SEARCH_STORAGE)",
    )
    return run_tool("search", parser, search, argv)


def search(arguments: argparse.Namespace) -> int:
    """Run what is missing, and write what is known.

    Raises:
        ParamsError: the space has a key that no trial reads, or the search began with other params, data or code.
        StageError: a run failed, for another reason than its params.
    """
    os.chdir(ROOT)
    if arguments.jobs < 1:
        raise ParamsError(f"--jobs: must be at least 1; it is {arguments.jobs}")
    params, content = params_file.read()
    settings = search_settings.read(params, content)
    space.validate_space(settings.space, content)

    folder = SCRATCH / f"search-{settings.name}"
    storage = open_storage(arguments.storage, folder)
    if arguments.restart:
        storage.clear()
        files.remove(folder)
    decided_by = everything_that_decides(settings, content)
    refuse_changes(decided_by, storage)

    workspace = Workspace(ROOT, folder.resolve(), stages_from("train"))
    workspace.link_data(content)
    prefix = f"{settings.name}-{hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()[:4]}"

    def state(records: Mapping[str, Record]) -> Halving:
        return Halving(settings, content, prefix, records)

    progress = Progress(state(storage.records()), arguments.jobs)
    known: dict[frozenset[str], list[Run]] = {}  # to draw the same trials at every look takes time
    one_at_a_time = threading.Lock()

    def next_runs(records: Mapping[str, Record]) -> list[Run]:
        with one_at_a_time:
            if (key := frozenset(records)) not in known:
                halving = state(records)
                known[key] = halving.next_runs()
                remove_losers(workspace, halving)
            return known[key]

    def on_record(run: Run, record: Record) -> None:
        with workspace.alone:
            halving = state(storage.records())
            progress.tell(run, record, halving)
            Results(halving).write_tables()

    workers = Workers(workspace, content, storage, settings.objective, next_runs, on_record)
    try:
        workers.run(arguments.jobs)
    except Stopped:
        logger.warning("stopped; every run is saved, and the same command goes on")
        return 130
    halving = state(storage.records())
    if halving.best is None:
        reasons = {record["error"] for record in halving.records.values() if record.get("error")}
        raise StageError(f"no trial came to a result: {shorten(sorted(reasons))}")
    results = Results(halving)
    with workspace.alone:
        results.write_tables()
        results.write_page()
    print("\n".join(results.summary()))
    workspace.drop()
    return 0


def open_storage(url: str, folder: Path) -> Storage:
    """The storage of the search: a folder, or a database.

    Raises:
        StageError: the database cannot be reached, or the clone is shallow.
        ParamsError: the URL is of another kind.
    """
    if not url:
        return FileStorage(folder)
    if not url.startswith(("postgresql://", "postgres://")):
        raise ParamsError(f"--storage: must be a postgresql:// URL; it is {url!r}")
    if git(ROOT, "rev-parse", "--is-shallow-repository") == "true":
        raise StageError("--storage: clones know each other by the first commit; `git fetch --unshallow` fetches it")
    project = git(ROOT, "rev-list", "--max-parents=0", "HEAD").splitlines()[-1]  # the same in all clones
    return PostgresStorage(url, f"{project[:12]}/{folder.name}")


def everything_that_decides(settings: Search, content: dict[str, Any]) -> dict[str, Any]:
    """All that decides the result of the search: it must be the same for all its runs, on all machines.

    Raises:
        StageError: the data are missing.
    """
    deps = read_declaration("train", content).deps
    for path in deps:
        if not Path(path).exists():
            raise StageError(f"{path} is missing; `dvc repro annotate` makes what a search needs")
    return {
        "params": {section: content[section] for section in ("compute", *SEARCHED)},
        "search": settings.model_dump(),
        "inputs": files.digests(deps),
        "versions": {name: version(name).partition("+")[0] for name in ("torch", "optuna")},
    }


def refuse_changes(settings: dict[str, Any], storage: Storage) -> None:
    """Begin the search with these settings, or make sure that it began with them.

    Raises:
        ParamsError: it did not.
    """
    kept = storage.add(SETTINGS, settings)
    if kept == settings:
        return
    before, now = (
        flatten({"search": whole["search"], **whole["params"]}) | whole["inputs"] | whole["versions"]
        for whole in (kept, settings)
    )
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    raise ParamsError(
        f"{shorten(changed)} changed since this search began; change it back, give `name` in search.yaml another value,"
        " or begin anew with --restart"
    )


def remove_losers(workspace: Any, halving: Halving) -> None:
    """Remove the clones of trials that go no further; finished ones are experiments by now."""
    with workspace.alone, contextlib.suppress(FileNotFoundError):
        for path in workspace.folder.iterdir():
            if halving.is_over(path.name):
                workspace.clone(path.name).remove()


class Progress:
    """A line for each run that ends.

    Args:
        halving: the state at the beginning.
        jobs: trainings at a time.
    """

    def __init__(self, halving: Halving, jobs: int):
        self._since, self._done = time.monotonic(), 0
        self._left = halving.epochs_left
        if len(halving.records) > 1:
            logger.info(f"going on: {len(halving.records) - 1} runs are known")
        logger.info(
            f"{halving.search.trials} trials, {jobs} at a time; {self._left} epochs to train, of {halving.total_epochs}"
        )

    def tell(self, run: Run, record: Record, halving: Halving) -> None:
        """Say how a run ended, and what is left."""
        self._done = self._left - halving.epochs_left
        seconds = (time.monotonic() - self._since) / max(self._done, 1) * halving.epochs_left
        left = f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"
        result = record.get("error") or f"{halving.search.objective} {record['value']:.4f}"
        best = halving.leader(halving.rungs.index(run.epochs)) if run.clone.startswith("trial") else None
        leader = f" (best {best[1]:.4f}, trial {best[0]})" if best else ""
        names = halving.short_names(run.params).items()
        varied = " ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in names
        )
        logger.info(f"{run.clone}, epoch {run.epochs}: {result}{leader}, {left} left{f'; {varied}' if varied else ''}")


if __name__ == "__main__":
    sys.exit(main())
