"""Is a recipe better than another? Both are trained on the same folds with the same seeds, and compared in pairs.

Recipes are compared on validation images that the folds take in turn from the training images; the test images choose
nothing. Each result is kept below scratch/, under a hash of all that decides it.
"""

import argparse
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from classifier import yaml_file
from classifier.config import params_file
from classifier.errors import ParamsError, StageError
from classifier.experiments import engine
from classifier.experiments.git import git, resolve
from classifier.experiments.halving import Run
from classifier.experiments.records import Records
from classifier.experiments.settings import SEARCHED
from classifier.experiments.snapshot import Snapshot, input_files, link
from classifier.experiments.stage_process import Task
from classifier.experiments.statistics import paired
from classifier.runner.cli import ROOT
from classifier.runner.declaration import get_by_key, read_declaration
from classifier.runner.lock import SCRATCH, exclusive
from classifier.yaml_file import flatten

SEED, FOLD = "train.seed", "annotate.validation_fold"
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
    names = {"params.yaml": {}, " ".join(f"{key}={value}" for key, value in changed.items()): changed}
    pairs = [(fold, seed) for fold in range(arguments.folds) for seed in range(arguments.seeds)]
    machine = engine.decided_by_machine(input_files(STAGES, content), content)
    first = content["train"]["seed"]
    runs = {
        name: [make_run(content, params | {FOLD: fold, SEED: first + seed}, machine) for fold, seed in pairs]
        for name, params in names.items()
    }
    everything = [run for both in zip(*runs.values(), strict=True) for run in both]
    with exclusive("compare", FOLDER), engine.stoppable():
        snapshot = Snapshot(FOLDER / digest(machine), STAGES, content)
        records = train(everything, snapshot, arguments.jobs)
    values = {name: [records[run.key]["value"] for run in of_recipe] for name, of_recipe in runs.items()}
    print("\n".join(verdict(pairs, values, content, arguments.folds)))
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
            return snapshot.train(run, run.epochs)

        for run, answer in engine.drive(submit, missing, task):
            records.add(run.key, engine.record(run, answer, OBJECTIVE))
            result = records[run.key].get("error") or records[run.key]["value"]
            logger.info(f"{run.name}: {result}; {len(missing())} trainings left")
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
    return {key: value for key, value in different.items() if get_by_key(content, key) != value}


def make_run(content: dict[str, Any], params: dict[str, Any], machine: dict[str, Any]) -> Run:
    """The training of a recipe on one fold with one seed; its name has a hash of all else that decides the result.

    Raises:
        ParamsError: there is no such fold.
    """
    changed = params_file.replaced(content, params, "--folds: ")
    keys = [key for stage in STAGES for key in read_declaration(stage, changed).params]
    chosen = flatten({key: get_by_key(changed, key) for key in keys})
    decided_by = {key: value for key, value in chosen.items() if key not in (SEED, FOLD)} | machine
    name = f"recipe-{digest(decided_by)}-f{params[FOLD]}-s{params[SEED]}"
    return Run(name, name, params, changed["train"]["epochs"])


def digest(content: dict[str, Any]) -> str:
    """Six digits for all of it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]


def verdict(
    pairs: Sequence[tuple[int, int]], values: Mapping[str, list[float | None]], content: dict[str, Any], folds: int
) -> list[str]:
    """A table of the pairs, and whether one recipe is better."""
    (_, base), (changed_name, changed) = values.items()
    lines = [f"validation accuracy of a: {changed_name}, b: params.yaml", "fold  seed       a       b   a - b"]
    both = []
    for (fold, seed), a, b in zip(pairs, changed, base, strict=True):
        if a is None or b is None:
            lines.append(f"{fold:4}  {content['train']['seed'] + seed:4}  {'diverged' if a is None else f'{a:.4f}'}  "
                         f"{'diverged' if b is None else f'{b:.4f}'}")  # fmt: skip
        else:
            both.append((a, b))
            lines.append(f"{fold:4}  {content['train']['seed'] + seed:4}  {a:.4f}  {b:.4f}  {a - b:+.4f}")
    if len(both) < 2:
        return [*lines, "too few pairs came to a result"]
    first, second = zip(*both, strict=True)
    if folds > 1:
        result = paired(first, second, content["annotate"]["validation_fraction"])
        how = "corrected for the overlap of the training images (Nadeau and Bengio, 2003)"
    else:
        result = paired(first, second)
        how = "for this validation split only; more folds say whether it holds for other images"
    lines.append(f"mean        {result.mean_a:.4f}  {result.mean_b:.4f}")
    return [*lines, f"difference: {result.describe('a', 'b')}", f"the interval is {how}"]
