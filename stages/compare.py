"""Is the difference between two models real? Compare their predictions on the same test images.

reads   metrics/predictions.csv of two git revisions, experiments or the workspace, through DVC
writes  nothing; prints accuracy with Wilson intervals, who is right where the other is not, McNemar's exact p-value
run     python -m stages.compare REV_A [REV_B] [--json]          (REV_B: the workspace, if left out)
expect  the same answer on any machine that can `dvc pull` the predictions

Two accuracies on 10,000 images that differ by 0.3 points may well differ by chance. McNemar's test looks only at the
images on which one model is right and the other wrong: were the models equally good, each would win half of them.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as `python stages/compare.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib.runner.errors import StageError

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PREDICTIONS = "metrics/predictions.csv"
WORKSPACE = "workspace"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Side:
    """One model: accuracy, its 95 % Wilson interval, and how many images it alone gets right."""

    revision: str
    accuracy: float
    low: float
    high: float
    only_right: int


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images, and the exact McNemar p-value of "they are equally good"."""

    a: Side
    b: Side
    images: int
    p_value: float

    def in_words(self) -> str:
        """What the numbers say."""
        if self.p_value >= SIGNIFICANT:
            chance = f"equally good models differ this much with a probability of {self.p_value:.2g}"
            return f"No difference is shown: {chance}."
        better, worse = (self.a, self.b) if self.a.only_right > self.b.only_right else (self.b, self.a)
        return (
            f"{better.revision} is better than {worse.revision}: "
            f"equally good models differ this much with a probability of only {self.p_value:.2g}."
        )


def read_predictions(revision: str) -> "pd.DataFrame":
    """The predictions of a git revision, an experiment or the workspace.

    Raises:
        StageError: there is no such revision, or it has no predictions here or in a remote.
    """
    import pandas as pd

    if revision == WORKSPACE:
        try:
            content = (ROOT / PREDICTIONS).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise StageError(f"{PREDICTIONS} is missing; `dvc repro evaluate` makes it") from None
    else:
        import dvc.api
        from dvc.exceptions import DvcException

        try:
            content = dvc.api.read(PREDICTIONS, repo=str(ROOT), rev=revision)
        except (DvcException, FileNotFoundError) as error:
            reason = str(error).partition("\n")[0]
            raise StageError(
                f"{revision}: no {PREDICTIONS} ({reason}); `dvc pull` fetches it, `dvc exp show` lists experiments"
            ) from None
    return pd.read_csv(io.StringIO(content), keep_default_na=False)


def compare(name_a: str, a: "pd.DataFrame", name_b: str, b: "pd.DataFrame") -> Comparison:
    """Compare two predictions files.

    Raises:
        StageError: they are not of the same images with the same labels.
    """
    from scipy.stats import binomtest

    a, b = (rows.sort_values("image", ignore_index=True) for rows in (a, b))
    if not a[["image", "label"]].equals(b[["image", "label"]]):
        raise StageError(
            f"{name_a} and {name_b} were not tested on the same images: {len(a):,} and {len(b):,} rows, "
            f"{len(set(a['image']) & set(b['image'])):,} images in both; only equal test sets can be compared"
        )
    right_a, right_b = a["predicted"] == a["label"], b["predicted"] == b["label"]
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0

    def side(name: str, right: "pd.Series", only: int) -> Side:
        interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
        return Side(name, float(right.mean()), float(interval.low), float(interval.high), only)

    return Comparison(side(name_a, right_a, only_a), side(name_b, right_b, only_b), len(a), float(p_value))


def main(argv: Sequence[str] | None = None) -> int:
    """Read both, compare, print."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revisions", nargs="+", metavar="REV", help=f"git revision, experiment, or {WORKSPACE}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    if len(arguments.revisions) > 2:
        parser.error("two revisions can be compared, not more")
    name_a, name_b = (*arguments.revisions, WORKSPACE)[:2]
    os.chdir(ROOT)
    try:
        result = compare(name_a, read_predictions(name_a), name_b, read_predictions(name_b))
    except StageError as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return error.exit_status
    if arguments.json:
        print(json.dumps(asdict(result), indent=2))
        return 0
    width = max(len(name_a), len(name_b))
    for side in (result.a, result.b):
        print(
            f"{side.revision:<{width}}  {side.accuracy:.2%} (95 % interval {side.low:.2%} to {side.high:.2%}), "
            f"alone right on {side.only_right:,} of {result.images:,} images"
        )
    print(f"exact McNemar p = {result.p_value:.4g}")
    print(result.in_words())
    return 0


if __name__ == "__main__":
    sys.exit(main())
