"""How much does a result depend on the seed? Mean and standard deviation over runs that differ only in train.seed.

A recipe is everything that dvc.yaml declares for `train` and the stages before it, except the seed: params, data and
code, as dvc.lock records them. Recipes are compared on the validation split, so that the test split chooses nothing.
"""

import argparse
import logging
from collections.abc import Iterator

from classifier.errors import StageError
from classifier.experiments.git import WORKSPACE, git, recorded_run
from classifier.runner.cli import ROOT

import pandas as pd

SEED = "train.seed"
STAGES = ("download", "annotate", "train")  # the last has the result that is compared
METRIC = "val_acc"

logger = logging.getLogger(__name__)


def compare_seeds(arguments: argparse.Namespace) -> int:
    """Print a line for each recipe with two seeds or more.

    Raises:
        StageError: there is none.
    """
    runs = recorded_runs(arguments.commits)
    lines = list(describe_recipes(runs)) if len(runs) else []
    if not lines:
        raise StageError("no recipe ran with two seeds; dvc exp run -S 'train.seed=0,1' --queue")
    print("\n".join(lines))
    return 0


def recorded_runs(commits: int) -> pd.DataFrame:
    """One row for each run that DVC recorded, in the workspace, in commits and in experiments.

    Columns: what decides the result of ``train`` (params by dotted key, hashes of inputs by path), the seed among them,
    and ``metric``. What a run does not have is missing.
    """
    revisions = git(ROOT, "rev-list", "--first-parent", f"--max-count={commits}", "HEAD").split()
    folders = (f"refs/exps/{revision[:2]}/{revision[2:]}/" for revision in revisions)
    experiments = git(ROOT, "for-each-ref", "--format=%(refname)", *folders).split()
    rows, left_out = [], []
    for revision in (WORKSPACE, *revisions, *experiments):
        try:
            decided, metrics = recorded_run(ROOT, revision, STAGES)
            row = {name: str(value) for name, value in decided.items()}
            rows.append({**row, "metric": float(metrics[METRIC])})
        except StageError as error:
            left_out.append(str(error))
    if left_out:
        more = f" (and {len(left_out) - 1} more)" if left_out[1:] else ""
        logger.warning(f"left out: {left_out[0]}{more}")
    return pd.DataFrame(rows)


def describe_recipes(runs: pd.DataFrame) -> Iterator[str]:
    """One line for each recipe with two seeds or more: the params that tell it from the others, mean and deviation."""
    recipe = [name for name in runs.columns if name not in (SEED, "metric")]
    runs = runs.fillna(dict.fromkeys(recipe, "")).drop_duplicates([*recipe, SEED])
    is_param = [name for name in recipe if "/" not in name]
    differing = [name for name in is_param if runs[name].nunique() > 1]
    for _, seeds in runs.groupby(recipe, sort=False):
        if len(seeds) > 1:
            values = {name: seeds[name].iloc[0] for name in dict.fromkeys(["train.model", *differing])}
            chosen = ", ".join(f"{name}={value}" for name, value in values.items() if value)  # less other variants
            mean, deviation = seeds["metric"].agg(["mean", "std"])
            yield f"{chosen}: validation accuracy {mean:.2%} ± {deviation:.2%} (n = {len(seeds)} seeds)"
