"""Is a recipe better than another? Both are trained on the same folds with the same seeds, and compared in pairs.

Recipes are compared on validation images that the folds take in turn from the training images; the test images choose
nothing. Each training becomes a DVC experiment named recipe-HASH-fFOLD-sSEED, which is found again.
"""

import argparse
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from classifier import yaml_file
from classifier.config import params_file
from classifier.errors import ParamsError, StageError, shorten
from classifier.experiments.clone import Stopped
from classifier.experiments.git import differing_params, experiment_references, git, recorded_run
from classifier.experiments.halving import Run
from classifier.experiments.settings import SEARCHED
from classifier.experiments.statistics import paired_by_fold, paired_by_seed
from classifier.experiments.storage import FileStorage, Record, Storage
from classifier.experiments.workers import Workers
from classifier.experiments.workspace import Workspace
from classifier.runner import files
from classifier.runner.cli import ROOT
from classifier.runner.declaration import get_by_key, read_declaration
from classifier.runner.lock import SCRATCH
from classifier.yaml_file import flatten

SEED, FOLD = "train.seed", "annotate.validation_fold"
OBJECTIVE = "val_acc"
STAGES = ("annotate", "train")

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
    runs = {
        name: [make_run(content, params, fold, content["train"]["seed"] + seed) for fold, seed in pairs]
        for name, params in names.items()
    }
    everything = [run for both in zip(*runs.values(), strict=True) for run in both]

    storage = FileStorage(SCRATCH / "compare-recipes")
    known = add_experiments(everything, content, storage)
    logger.info(f"{len(everything)} trainings, {len(everything) - known} to do, {arguments.jobs} at a time")
    # A folder by data and code: what a killed comparison left must not serve one of other data.
    workspace = Workspace(ROOT, (SCRATCH / f"compare-recipes-{recipe_hash(content)}").resolve(), STAGES)
    workspace.link_data(content)

    def next_runs(records: Mapping[str, Record]) -> list[Run]:
        return [run for run in everything if run.key not in records]

    def on_record(run: Run, record: Record) -> None:
        left = len(next_runs(storage.records()))
        logger.info(f"{run.experiment}: {record.get('error') or record['value']}; {left} trainings left")
        workspace.clone(run.clone).remove()

    try:
        Workers(workspace, content, storage, OBJECTIVE, next_runs, on_record).run(arguments.jobs)
    except Stopped:
        logger.warning("stopped; every run is saved, and the same command goes on")
        return 130
    finally:
        workspace.drop()
    records = storage.records()
    values = {name: [records[run.key]["value"] for run in of_recipe] for name, of_recipe in runs.items()}
    print("\n".join(verdict(pairs, values, content, arguments.folds)))
    return 0


def other_params(content: dict[str, Any], revision: str | None, changes: Sequence[str]) -> dict[str, Any]:
    """In what the other recipe differs, by dotted key.

    Raises:
        ParamsError: a change is not KEY=VALUE, or not allowed; there is no such revision.
    """
    different: dict[str, Any] = {}
    if revision:
        reference = next(iter(experiment_references(ROOT, revision)), revision)
        try:
            text = git(ROOT, "show", f"{reference}:params.yaml")
        except StageError:
            raise ParamsError(f"{revision}: no commit or experiment with a params.yaml") from None
        theirs = flatten({section: yaml_file.load(text).get(section, {}) for section in ("compute", *SEARCHED)})
        different = {key: value for key, value in theirs.items() if key not in (SEED, FOLD)}
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator:
            raise ParamsError(f"-S {change}: must be KEY=VALUE, such as train.ema_decay=0.99")
        if key in (SEED, FOLD) or key.partition(".")[0] not in SEARCHED:
            raise ParamsError(f"-S {key}: must be a key of {', '.join(SEARCHED)}, and not {SEED}, which varies anyway")
        different[key] = yaml_file.load(value)
    params_file.replaced(content, different, "-S ")
    return {key: value for key, value in different.items() if get_by_key(content, key) != value}


def make_run(content: dict[str, Any], params: dict[str, Any], fold: int, seed: int) -> Run:
    """The training of a recipe on one fold with one seed.

    Raises:
        ParamsError: there is no such fold.
    """
    changes = {**params, FOLD: fold, SEED: seed}
    changed = params_file.replaced(content, changes, "--folds: ")
    name = f"recipe-{recipe_hash(changed)}-f{fold}-s{seed}"
    return Run(name, name, changes, changed["train"]["epochs"], experiment=name, stages=STAGES)


def recipe_hash(content: dict[str, Any]) -> str:
    """Six digits for all that decides the result of a recipe: params, data, code and version of PyTorch."""
    decided: dict[str, Any] = {"torch": version("torch").partition("+")[0]}
    outs: set[str] = set()
    for stage in STAGES:
        declared = read_declaration(stage, content)
        decided |= {key: get_by_key(content, key) for key in declared.params}
        decided |= files.digests(path for path in declared.deps if path not in outs)
        outs |= set(declared.outs)
    decided["train"] = {key: value for key, value in decided["train"].items() if key != "seed"}
    decided["annotate"] = {key: value for key, value in decided["annotate"].items() if key != "validation_fold"}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:6]


def add_experiments(runs: Sequence[Run], content: dict[str, Any], storage: Storage) -> int:
    """Take what experiments hold already, also those of other clones, and return how many runs are known.

    Raises:
        StageError: an experiment has the name of a run, and another result.
    """
    for run in runs:
        for reference in experiment_references(ROOT, run.experiment)[:1]:
            decided, metrics = recorded_run(ROOT, reference, STAGES)
            if keys := differing_params(decided, params_file.replaced(content, run.params)):
                raise StageError(
                    f"the experiment {run.experiment} ran with another {shorten(keys)}; rename or remove it"
                )
            storage.add(run.key, {"params": run.params, "value": metrics[OBJECTIVE]})
    records = storage.records()
    return sum(run.key in records for run in runs)


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
        result = paired_by_fold(first, second, content["annotate"]["validation_fraction"])
        how = "corrected for the overlap of the training images (Nadeau and Bengio, 2003)"
    else:
        result = paired_by_seed(first, second)
        how = "for this validation split only; more folds say whether it holds for other images"
    lines.append(f"mean        {result.mean_a:.4f}  {result.mean_b:.4f}")
    return [*lines, f"difference: {result.describe('a', 'b')}", f"the interval is {how}"]
