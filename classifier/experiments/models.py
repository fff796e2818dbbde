"""Is the difference between two trained models real? Their predictions on the same test images are compared.

Two accuracies on 10,000 images that differ by 0.3 points may well differ by chance. McNemar's test looks only at the
images on which one model is correct and the other wrong: were the models equally good, each would win half of them.
"""

import argparse
import io
import json
from dataclasses import asdict, dataclass

from classifier import yaml_file
from classifier.errors import ParamsError, StageError, shorten
from classifier.experiments.git import WORKSPACE, read_file, recorded_run, resolve
from classifier.experiments.statistics import PairedComparison, paired
from classifier.runner.cli import ROOT
from classifier.yaml_file import flatten

import dvc.api
import pandas as pd
from dvc.exceptions import DvcException
from dvc.repo import Repo
from scipy.stats import binomtest

PREDICTIONS = "metrics/predictions.csv"
STAGES = ("download", "annotate", "train", "evaluate")  # the last makes them
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Side:
    """One model: accuracy, its 95 % Wilson interval, and the number of images on which only it is correct."""

    revision: str
    accuracy: float
    low: float
    high: float
    only_correct: int


@dataclass(frozen=True)
class ModelComparison:
    """Two models on the same images, and the exact McNemar p-value of the hypothesis that they are equally good.

    Attributes:
        difference: of the accuracies, b minus a, with its interval.
        classes: a row for each class, by its name, with the recalls ``a`` and ``b``, the ``change`` from a to b and
            ``num_images``; the largest change first. A recall has no test of its own: the classes are few and related.
    """

    a: Side
    b: Side
    num_images: int
    p_value: float
    difference: PairedComparison
    classes: pd.DataFrame

    def in_words(self) -> str:
        """The conclusion, as a sentence."""
        if self.p_value >= SIGNIFICANT:
            chance = f"equally good models differ this much with a probability of {self.p_value:.2g}"
            return f"No significant difference: {chance}."
        better, worse = (self.a, self.b) if self.a.only_correct > self.b.only_correct else (self.b, self.a)
        return (
            f"{better.revision} is better than {worse.revision}: "
            f"equally good models differ this much with a probability of only {self.p_value:.2g}."
        )


def read_predictions(revision: str) -> pd.DataFrame:
    """The predictions of a git revision, an experiment or the workspace.

    Raises:
        StageError: there is no such revision, or it has no predictions here or in a remote.
        ParamsError: the revision is empty.
    """
    if not revision:
        raise ParamsError(f"an empty revision; name a commit, an experiment, or {WORKSPACE}")
    content = read_tracked(revision, PREDICTIONS)
    text = dict.fromkeys(("image", "label", "predicted"), "str")  # a class may be called 1 or NA
    try:
        rows = pd.read_csv(io.BytesIO(content), dtype=text, keep_default_na=False)
    except ValueError:  # no text, or no table
        rows = pd.DataFrame()
    if not set(text) <= set(rows):
        raise StageError(f"{revision}: {PREDICTIONS} is not what `dvc repro evaluate` writes")
    if changed := changed_since(revision):
        raise StageError(f"{revision}: {shorten(changed)} changed since; `dvc repro evaluate` makes {PREDICTIONS} anew")
    return rows


def read_tracked(revision: str, path: str) -> bytes:
    """A file of a git revision, an experiment or the workspace, as DVC tracks it.

    Raises:
        StageError: there is no such revision, or it does not have the file here or in a remote.
    """
    try:
        content: bytes = dvc.api.read(path, str(ROOT), rev=None if revision == WORKSPACE else revision, mode="rb")
    except (DvcException, FileNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise StageError(
            f"{revision}: no {path} ({reason}); `dvc pull` fetches it, `dvc exp show` lists experiments"
        ) from None
    return content


def changed_since(revision: str) -> list[str]:
    """Whatever differs from dvc.lock: a param that decided the predictions; in the workspace also other inputs.

    Raises:
        StageError: dvc.lock does not record the predictions.
    """
    reference = resolve(ROOT, revision)
    try:
        decided, _ = recorded_run(ROOT, reference, STAGES)
    except StageError as error:
        raise StageError(f"{error}; `dvc repro evaluate` makes {PREDICTIONS} anew") from None
    params = flatten(yaml_file.load(read_file(ROOT, reference, "params.yaml")))
    changed = [f"params.yaml ({key})" for key in decided if "/" not in key and params.get(key) != decided[key]]
    if revision == WORKSPACE:
        with Repo(str(ROOT)) as repo:
            stages = [stage for stage in repo.index.stages if getattr(stage, "name", "") in STAGES]
            files = [dep for stage in stages for dep in stage.deps if str(dep) in decided]
            files += [out for stage in stages for out in stage.outs if str(out) == PREDICTIONS]
            changed += sorted({str(file) for file in files if file.workspace_status().get(str(file)) == "modified"})
    return changed


def compare(name_a: str, a: pd.DataFrame, name_b: str, b: pd.DataFrame) -> ModelComparison:
    """Compare two predictions files.

    Raises:
        StageError: they are not of the same images with the same labels.
    """
    a, b = (rows.sort_values("image", ignore_index=True) for rows in (a, b))
    if not a[["image", "label"]].equals(b[["image", "label"]]):
        raise StageError(
            f"{name_a} and {name_b} were not tested on the same images: {len(a):,} and {len(b):,} rows, "
            f"{len(set(a['image']) & set(b['image'])):,} images in both; only equal test sets can be compared"
        )
    correct_a, correct_b = a["predicted"] == a["label"], b["predicted"] == b["label"]
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    p_value = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0

    def side(name: str, correct: pd.Series, only: int) -> Side:
        interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
        return Side(name, float(correct.mean()), float(interval.low), float(interval.high), only)

    by_class = pd.DataFrame({"a": correct_a, "b": correct_b}).groupby(a["label"])
    classes = by_class.mean().assign(change=lambda means: means["b"] - means["a"], num_images=by_class.size())
    return ModelComparison(
        side(name_a, correct_a, only_a), side(name_b, correct_b, only_b), len(a), float(p_value),
        paired(correct_b, correct_a), classes.sort_values("change", key=lambda change: -abs(change), kind="stable"),
    )  # fmt: skip


def compare_models(arguments: argparse.Namespace) -> int:
    """Compare the two revisions of the command line, and print the result."""
    name_a, name_b = arguments.a, arguments.b
    result = compare(name_a, read_predictions(name_a), name_b, read_predictions(name_b))
    if arguments.json:
        classes = result.classes.rename_axis("name").reset_index().to_dict("records")
        print(json.dumps(asdict(result) | {"classes": classes}, indent=2))
        return 0
    width = max(len(name_a), len(name_b))
    for side in (result.a, result.b):
        print(
            f"{side.revision:<{width}}  {side.accuracy:.2%} (95 % interval {side.low:.2%} to {side.high:.2%}), "
            f"only correct on {side.only_correct:,} of {result.num_images:,} images"
        )
    print(f"exact McNemar p = {result.p_value:.4g}")
    print(result.in_words())
    if arguments.by_class:
        print_classes(result)
    return 0


def print_classes(result: ModelComparison) -> None:
    """One line a class, the largest change first."""
    table = format_classes(result.classes).rename_axis(index=None, columns="class")
    print(f"\n{table.to_string(header=[result.a.revision, result.b.revision, 'change', 'images'])}")


def format_classes(classes: pd.DataFrame) -> pd.DataFrame:
    formats = {"a": "{:.2%}", "b": "{:.2%}", "change": "{:+.2%}", "num_images": "{:,}"}
    return pd.DataFrame({name: classes[name].map(form.format) for name, form in formats.items()})
