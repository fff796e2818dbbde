"""How sure is an accuracy? Mean and standard deviation over runs that differ in nothing but the seed of training.

reads   what DVC recorded for commits and experiments: params, metrics, hashes of data and code
writes  nothing; prints one line for each recipe that ran with at least two seeds
run     dvc exp run -S 'train.seed=0,1,2' --queue && dvc queue start -j 2; then: python -m stages.repeats
expect  about a second; a seed that ran twice counts once
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as `python stages/repeats.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

ROOT = Path(__file__).resolve().parents[1]
SEED = "train.seed"
ACCURACY = "metrics/evaluate.json:accuracy"
# What makes a recipe: params, and hashes of the data and of the code.
PARAMS = ("annotate.", "compute.", "download.dataset", "models.", "optimizers.", "train.")
VARIANTS = {"models": "train.model", "optimizers": "train.optimizer"}  # only the chosen one is part of it
HASHES = ("data/", "stages/")


def main(argv: Sequence[str] | None = None) -> int:
    """Group what DVC recorded by everything but the seed, and print the groups."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.repeats", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, default=1, help="experiments of the last so many commits (default: 1)")
    arguments = parser.parse_args(argv)

    import dvc.api
    import pandas as pd

    os.chdir(ROOT)
    runs = pd.DataFrame(dvc.api.exp_show(num=arguments.commits))
    recipe = [name for name in runs.columns if name.startswith((*PARAMS, *HASHES)) and name != SEED]
    runs = runs.dropna(subset=[ACCURACY, SEED]) if ACCURACY in runs else runs[:0]
    runs[recipe] = runs[recipe].map(as_typed)
    for name in recipe:
        section, _, rest = name.partition(".")
        if section in VARIANTS:
            runs.loc[runs[VARIANTS[section]] != rest.partition(".")[0], name] = ""
    runs = runs.drop_duplicates([*recipe, SEED])
    different = [name for name in recipe if name.startswith(PARAMS) and runs[name].nunique() > 1]
    shown = False
    for _, seeds in runs.groupby(recipe, sort=False):
        if len(seeds) > 1:
            named = dict.fromkeys(["train.model", *different])
            values = {name: str(seeds[name].iloc[0]) for name in named}
            chosen = ", ".join(f"{name}={value}" for name, value in values.items() if value)  # less the other variants
            mean, deviation = seeds[ACCURACY].agg(["mean", "std"])
            print(f"{chosen}: test accuracy {mean:.2%} ± {deviation:.2%} (n = {len(seeds)} seeds)")
            shown = True
    if not shown:
        print("repeats: error: no recipe ran with two seeds; dvc exp run -S 'train.seed=0,1' --queue", file=sys.stderr)
    return int(not shown)


def as_typed(value: object) -> str:
    """A param as it stands in params.yaml: a column with a gap holds 3.0 for 3."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


if __name__ == "__main__":
    sys.exit(main())
