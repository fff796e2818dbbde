"""Compare trained models, recipes, or the seeds of a recipe.

reads   models: metrics/predictions.csv of two git revisions, experiments or the workspace, through DVC
        recipes: params.yaml, or that of a revision; the data; earlier results below scratch/compare-recipes/
        seeds: what DVC recorded for commits and experiments
writes  recipes: scratch/compare-recipes/; else nothing
run     python -m tools.compare models REV_A [REV_B] [--by-class] [--json]    (REV_B: the workspace, if left out)
        python -m tools.compare recipes [REV] -S train.ema_decay=0.99 [--folds 3] [--seeds 2] [--jobs N]
        python -m tools.compare seeds [--commits N]
expect  models: accuracies with intervals and McNemar's exact test, on the test images; recipes: two trainings for each
        pair of fold and seed, once, and an interval of the difference, on validation images; seeds: mean and standard
        deviation for each recipe that ran with at least two seeds
"""

import os
import sys
from collections.abc import Sequence

from classifier.experiments.git import WORKSPACE
from classifier.experiments.models import compare_models
from classifier.experiments.recipes import compare_recipes
from classifier.experiments.seeds import compare_seeds
from classifier.runner.cli import ROOT, make_parser, run_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and compare."""
    parser = make_parser("tools.compare", __doc__)
    commands = parser.add_subparsers(required=True, metavar="models | recipes | seeds")

    models = commands.add_parser("models", help="is one trained model better than another?")
    models.set_defaults(work=compare_models)
    models.add_argument("a", metavar="REV_A", help=f"git revision, experiment, or {WORKSPACE}")
    models.add_argument("b", metavar="REV_B", nargs="?", default=WORKSPACE, help=f"the same (default: {WORKSPACE})")
    models.add_argument("--by-class", action="store_true", help="print the recall of each class, largest change first")
    models.add_argument("--json", action="store_true", help="print JSON, classes included")

    recipes = commands.add_parser("recipes", help="is a recipe better than params.yaml?")
    recipes.set_defaults(work=compare_recipes)
    recipes.add_argument("revision", nargs="?", help="a commit or experiment, whose params are the other recipe")
    recipes.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="another value")
    recipes.add_argument(
        "--folds", type=int, default=3, help="of the 1 / annotate.validation_fraction folds (default: 3)"
    )
    recipes.add_argument("--seeds", type=int, default=2, help="from train.seed on, on each fold (default: 2)")
    recipes.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time, which share the cores")

    seeds = commands.add_parser("seeds", help="how much does a result depend on the seed?")
    seeds.set_defaults(work=compare_seeds)
    seeds.add_argument("--commits", type=int, default=1, help="experiments of the last N commits (default: 1)")

    os.chdir(ROOT)
    return run_tool("compare", parser, lambda arguments: arguments.work(arguments), argv)


if __name__ == "__main__":
    sys.exit(main())
