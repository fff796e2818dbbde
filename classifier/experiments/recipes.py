"""Is a recipe better than another? Both are trained on the same folds with the same seeds, and compared in pairs.

Recipes are compared on validation images that the folds take in turn from the training images; the test images choose
nothing. Each result is kept below scratch/, under a hash of all that decides it.
"""

import argparse
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from classifier import yaml_file
from classifier.config import params_file
from classifier.errors import ParamsError, StageError
from classifier.experiments import decided, engine
from classifier.experiments.git import git, resolve
from classifier.experiments.halving import Run
from classifier.experiments.records import Records
from classifier.experiments.settings import SEARCHED
from classifier.experiments.snapshot import Snapshot, link
from classifier.experiments.stage_process import Task
from classifier.experiments.statistics import paired
from classifier.runner.cli import ROOT
from classifier.runner.declaration import get_by_key, read_declaration
from classifier.runner.lock import SCRATCH, exclusive
from classifier.yaml_file import flatten

import pandas as pd

SEED, FOLD, CHECKPOINT = "train.seed", "annotate.validation_fold", "train.initial_checkpoint"
OBJECTIVE = "val_acc"
STAGES = ("annotate", "train")
FOLDER = SCRATCH / "compare-recipes"

logger = logging.getLogger(__name__)


def compare_recipes(arguments: argparse.Namespace) -> int:
    """Train what is missing, and print the pairs and the verdict.

    Raises:
        ParamsError: the recipes do not differ, or there are not so many folds.
        StageError: a run failed for another reason than its params.
    """
    if min(arguments.folds, arguments.seeds, arguments.jobs) < 1 or arguments.folds * arguments.seeds < 2:
        raise ParamsError("--folds, --seeds, --jobs: must be at least 1, and there must be two pairs of fold and seed")
    _, content = params_file.read()
    changed = other_params(content, arguments.revision, arguments.changes)
    if not changed:
        raise ParamsError("both recipes are the same; -S KEY=VALUE or a revision says how they differ")
    first = content["train"]["seed"]
    pairs = list(itertools.product(range(arguments.folds), range(first, first + arguments.seeds)))
    machine = decided.beyond_params(STAGES, content)
    runs = {
        name: [make_run(content, params | {FOLD: fold, SEED: seed}, machine) for fold, seed in pairs]
        for name, params in (("a", changed), ("b", {}))
    }
    with exclusive("compare", FOLDER), engine.stoppable():
        snapshot = Snapshot(FOLDER / decided.digest(machine | flatten(content))[:6], STAGES, content)
        records = train([*runs["a"], *runs["b"]], snapshot, arguments.jobs)
    values = {name: [records[run.key]["value"] for run in of_recipe] for name, of_recipe in runs.items()}
    table = pd.DataFrame(pairs, columns=["fold", "seed"]).assign(**values)
    print(f"validation accuracy of a: {' '.join(f'{key}={value}' for key, value in changed.items())}, b: params.yaml")
    print("\n".join(verdict(table, content["annotate"]["validation_fraction"] if arguments.folds > 1 else 0)))
    return 0


def train(runs: Sequence[Run], snapshot: Snapshot, jobs: int) -> Records:
    """Train what has no record yet, and return all records."""
    records = Records(FOLDER / "records")

    def missing() -> list[Run]:
        return [run for run in runs if run.key not in records]

    logger.info(f"{len(runs)} trainings, {len(missing())} to do, {jobs} at a time")
    with engine.processes(snapshot.project, jobs) as submit:
        folds = {run.params[FOLD] for run in missing()}
        for annotated in [submit(snapshot.task("annotate", f"fold-{fold}", {FOLD: fold})) for fold in folds]:
            engine.refuse_failure("annotate", annotated.result())

        def task(run: Run) -> Task:
            link(["data", "metrics"], snapshot.runs / f"fold-{run.params[FOLD]}", snapshot.runs / run.name)
            return snapshot.train(run)

        for run, answer in engine.drive(submit, missing, task):
            records.add(run.key, engine.record(run, answer, OBJECTIVE))
            result = records[run.key].get("error") or records[run.key]["value"]
            logger.info(f"{run.name}: {result}; still to do: {len(missing())}")
    snapshot.remove()
    return records


def other_params(content: dict[str, Any], revision: str | None, changes: Sequence[str]) -> dict[str, Any]:
    """In what the other recipe differs, by dotted key.

    Raises:
        ParamsError: a change is not KEY=VALUE, or not allowed; there is no such revision.
    """
    different: dict[str, Any] = {}
    if revision:
        reference = resolve(ROOT, revision)
        try:
            text = git(ROOT, "show", f"{reference}:params.yaml")
        except StageError:
            raise ParamsError(f"{revision}: no commit or experiment with a params.yaml") from None
        theirs = flatten({section: yaml_file.load(text).get(section, {}) for section in SEARCHED})
        different = {key: value for key, value in theirs.items() if key not in (SEED, FOLD)}
    for key, value in params_file.parse_overrides(changes).items():
        if key in (SEED, FOLD) or key.partition(".")[0] not in SEARCHED:
            raise ParamsError(f"-S {key}: must be a key of {', '.join(SEARCHED)}, and not {SEED}, which varies anyway")
        different[key] = value
    params_file.replaced(content, different, "-S ")
    changed = {key: value for key, value in different.items() if get_by_key(content, key) != value}
    if CHECKPOINT in changed:
        raise ParamsError(f"{CHECKPOINT}: must be the same for both recipes; it is {changed[CHECKPOINT]!r}")
    return changed


def make_run(content: dict[str, Any], params: dict[str, Any], machine: dict[str, Any]) -> Run:
    """The training of a recipe on one fold with one seed; its name has a hash of all else that decides the result.

    Raises:
        ParamsError: there is no such fold.
    """
    changed = params_file.replaced(content, params, "--folds: ")
    keys = [key for stage in STAGES for key in read_declaration(stage, changed).params]
    chosen = flatten({key: get_by_key(changed, key) for key in keys})
    decided_by = {key: value for key, value in chosen.items() if key not in (SEED, FOLD)} | machine
    name = f"recipe-{decided.digest(decided_by)[:6]}-f{params[FOLD]}-s{params[SEED]}"
    return Run(name, params, changed["train"]["epochs"])


def verdict(table: pd.DataFrame, validation_share: float) -> Iterator[str]:
    """A table of the pairs, and whether one recipe is better.

    Args:
        table: a row for each pair, with the figures ``a`` and ``b``, or None.
        validation_share: of all images that are split into folds; 0 for one fold.
    """
    table = table.astype({"a": float, "b": float})
    table["a - b"] = table["a"] - table["b"]
    forms = {"a": "{:.4f}".format, "b": "{:.4f}".format, "a - b": "{:+.4f}".format}
    yield table.to_string(index=False, na_rep="diverged", formatters=forms)
    both = table.dropna()
    if len(both) < 2:
        yield "too few pairs came to a result"
        return
    result = paired(both["a"], both["b"], validation_share)
    yield f"means: {result.mean_a:.4f} and {result.mean_b:.4f}"
    yield f"difference: {result.describe('a', 'b')}"
    if validation_share:
        yield "the interval is corrected for the overlap of the training images (Nadeau and Bengio, 2003)"
    else:
        yield "the interval is for this validation split only; more folds say whether it holds for other images"
