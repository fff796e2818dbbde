"""Review a change, in Markdown: what differs from another revision, and is the model better?

Params, packages, code and metrics come from git; annotations and predictions come through DVC.
"""

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any

from classifier import yaml_file
from classifier.data import images, pictures
from classifier.data.annotations import SPLITS
from classifier.errors import StageError, shorten
from classifier.evaluate.predictions import PROBABILITY
from classifier.experiments import models
from classifier.experiments.git import WORKSPACE, git, read_file, resolve
from classifier.report import figures
from classifier.runner import files
from classifier.runner.cli import ROOT
from classifier.runner.declaration import ENVIRONMENT, read_declaration, stages_from

import pandas as pd
from dvc.exceptions import DvcException
from dvc.repo import Repo

MAIN = ("origin/main", "main")  # the first that exists
ANNOTATIONS, ARCHIVES = "data/annotations.csv", ("data/images", "data/test_images")
SETTINGS = {"Params": "params.yaml", "Packages": str(ENVIRONMENT)}
CLASSES, LISTED, DRAWN = 5, 10, 24  # at most: classes and images in a table, images in the contact sheet
ROWS, WIDTH = 30, 120  # of any table, at most; a terminal has as many columns
KINDS = ("newly wrong", "wrong in another way", "newly right")  # of changed predictions, the worst first


def review(arguments: argparse.Namespace) -> int:
    """Print the review, and raise a StageError if the model is shown to be below ``fail_below``."""
    base = find_base(arguments.base)
    before, now = recorded_outs(base), recorded_outs(WORKSPACE)
    with Repo(str(ROOT)) as repo:
        params = repo.params.diff(base, WORKSPACE).get("diff", {})
        metrics = repo.metrics.diff(base, WORKSPACE).get("diff", {})
    sections = {"Accuracy": ""} | {name: changed_values(params.get(file, {})) for name, file in SETTINGS.items()}
    try:
        others = [code(path) for path in ARCHIVES if before.get(path) != now.get(path)]
        sections["Data"] = f"Other images in {' and '.join(others)}." if others else ""
        if before.get(ANNOTATIONS) != now.get(ANNOTATIONS):
            sections["Data"] = changed_data(base)
    except StageError as error:
        sections["Data"] = f"Left out: {error}."
    sections |= {"Code": changed_code(base), "Metrics": changed_metrics(metrics)}
    high: float | None = 0.0  # end of the interval; equal predictions do not differ
    try:
        if before.get(models.PREDICTIONS) != now.get(models.PREDICTIONS):
            old, new = predictions_on_same_images(base)
            result = models.compare(base, old, WORKSPACE, new)
            sections["Accuracy"], high = f"{result.difference.describe(WORKSPACE, base)}.", result.difference.high
            sections["Classes that moved most"] = moved_classes(result)
            sections["Changed predictions"] = changed_predictions(old, new, Path(arguments.sheet))
        elif stale := models.changed_since(WORKSPACE):
            raise StageError(f"{WORKSPACE}: {shorten(stale)} changed since; `dvc repro` makes new predictions")
    except StageError as error:
        sections["Accuracy"], high = f"Left out: {error}.", None
    parts = [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    nothing = f"No change since {base}: params, packages, data, code of the stages, metrics and predictions are equal."
    print("\n\n".join([f"# Review against {base}", *parts]) if parts else nothing)
    if arguments.fail_below is not None and high is None:
        raise StageError("--fail-below needs the predictions of both versions, and the review left them out")
    if arguments.fail_below is not None and high < arguments.fail_below:
        raise StageError(f"accuracy: the interval ends at {high:+.4f}, below {arguments.fail_below:g}")
    return 0


def find_base(name: str | None) -> str:
    """The commit of that name, or the one at which this branch began; abbreviated."""
    git(ROOT, "rev-parse", "--git-dir")  # refuses a folder that git does not know
    for each in [name] if name else MAIN:
        with contextlib.suppress(StageError):
            commit = resolve(ROOT, each) if name else git(ROOT, "merge-base", each, "HEAD")
            return git(ROOT, "rev-parse", "--short", "--verify", f"{commit}^{{commit}}")
    raise StageError(f"{name or ' or '.join(MAIN)}: no commit that is known here; `git fetch` gets those of a remote")


def recorded_outs(revision: str) -> dict[str, str]:
    """The digest of each output, by its path, from dvc.lock."""
    try:
        stages = yaml_file.load(read_file(ROOT, revision, "dvc.lock"))["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    except (StageError, yaml_file.YAMLFileError, KeyError, TypeError):
        raise StageError(f"{revision}: no readable dvc.lock; `dvc repro` writes it, then commit it") from None


def fetch(base: str, path: str) -> None:
    """Let DVC fetch both versions of a file unless they are here; whoever reads it reports what is still missing."""
    with contextlib.suppress(DvcException), Repo(str(ROOT)) as repo:
        repo.fetch([path], revs=[base], workspace=not (ROOT / path).exists())


def predictions_on_same_images(base: str) -> list[pd.DataFrame]:
    """Both versions, with those test images that both have with the same label, in the same order."""
    fetch(base, models.PREDICTIONS)
    both = [models.read_predictions(revision) for revision in (base, WORKSPACE)]
    common = both[0][["image", "label"]].merge(both[1][["image", "label"]])
    if len(common) < 2:
        raise StageError(f"{base} and {WORKSPACE} have no test images in common")
    return [common.merge(rows) for rows in both]


def changed_values(pairs: dict[str, dict[str, Any]]) -> str:
    rows = [[code(key), *(code(pairs[key][side]) for side in ("old", "new"))] for key in sorted(pairs)]
    return table(["key", "base", "now"], rows)


def changed_metrics(metrics: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Those that differ, unless the workspace has those of other params, code or data."""
    rows = [
        [code(f"{Path(file).stem}.{key}"), f"{pair['old']:.5g}", f"{pair['new']:.5g}", f"{pair['diff']:+.5g}"]
        for file, pairs in sorted(metrics.items())
        for key, pair in sorted(pairs.items())
        if "diff" in pair
    ]
    try:
        stale = rows and shorten(models.changed_since(WORKSPACE))
    except StageError as error:
        return f"Left out: {error}."
    if stale:
        return f"Left out: {WORKSPACE}: {stale} changed since."
    return table(["metric", "base", "now", "difference"], rows, numbers=3)


def changed_data(base: str) -> str:
    """The number of images of each split that came, went, have another label or are in another split."""
    fetch(base, ANNOTATIONS)
    old, new = (
        pd.read_csv(io.BytesIO(models.read_tracked(revision, ANNOTATIONS)), dtype="str", keep_default_na=False)
        for revision in (base, WORKSPACE)
    )
    both = old.merge(new, on="image", how="outer", suffixes=("_old", "_new"))
    was, now = both["split_old"], both["split_new"]
    kept = was.notna() & now.notna()
    relabeled, moved = kept & (both["class_name_old"] != both["class_name_new"]), kept & (was != now)
    counts = {
        "added": now[was.isna()], "removed": was[now.isna()], "relabeled": now[relabeled],
        "moved in": now[moved], "moved out": was[moved],
    }  # fmt: skip
    rows = [[split, *(f"{(splits == split).sum():,}" for splits in counts.values())] for split in SPLITS]
    examples = both["image"] + ": " + both["class_name_old"] + " to " + both["class_name_new"]
    listed = f"\n\nRelabeled: {shorten(map(code, examples[relabeled]))}." if relabeled.any() else ""
    return table(["split", *counts], [row for row in rows if {*row[1:]} != {"0"}], numbers=5) + listed


def changed_code(base: str) -> str:
    """The files that differ, committed or not, among those that dvc.yaml lists, with the stages that depend on them."""
    params = yaml_file.load(read_file(ROOT, WORKSPACE, "params.yaml"))
    stages = stages_from("download", ROOT / "dvc.yaml")
    deps = {stage: read_declaration(stage, params, ROOT / "dvc.yaml").deps for stage in stages}
    changed = git(
        ROOT, "-c", "core.quotePath=false", "diff", "--name-only", "--no-renames", "--relative", base
    ).splitlines()
    changed += git(ROOT, "-c", "core.quotePath=false", "ls-files", "--others", "--exclude-standard").splitlines()
    rows = []
    for file in sorted(changed):
        if found := [stage for stage in stages if any(Path(file).is_relative_to(dep) for dep in deps[stage])]:
            rows.append([code(file), ", ".join(found)])
    return table(["file", "stages"], rows)


def moved_classes(result: models.ModelComparison) -> str:
    moved = result.classes[result.classes["change"] != 0].head(CLASSES)
    rows = [[code(name), *cells] for name, *cells in models.format_classes(moved).itertuples()]
    return table(["class", "base", "now", "change", "images"], rows, numbers=4)


def changed_predictions(old: pd.DataFrame, new: pd.DataFrame, sheet: Path) -> str:
    """A table of them, the worst first, and a picture."""
    confidence = new.filter(like=PROBABILITY).max(axis=1)
    rows = new[["image", "label", "predicted"]].assign(before=old["predicted"], confidence=confidence)
    rows = rows[rows["before"] != rows["predicted"]]
    rows["kind"] = 1 + (rows["predicted"] == rows["label"]).astype(int) - (rows["before"] == rows["label"])  # of KINDS
    rows = rows.sort_values(["kind", "confidence", "image"], ascending=[True, False, True])
    counts = ", ".join(f"{(rows['kind'] == place).sum():,} {kind}" for place, kind in enumerate(KINDS))
    worst = [
        [*map(code, (row.image, row.label, row.before, row.predicted)), f"{row.confidence:.0%}"]
        for row in rows.head(LISTED).itertuples()
    ]
    listed = table(["image", "label", "base", "now", "confidence"], worst, numbers=1)
    summary = f"{len(rows):,} of {len(new):,} test images: {counts}. The worst first:"
    return f"{summary}\n\n{listed}\n\n{draw(rows.head(DRAWN), sheet)}" if worst else ""


def draw(rows: pd.DataFrame, sheet: Path) -> str:
    """Write the images as one PNG, and return a line that names it."""
    try:
        pixels = images.stack(rows["image"], len(rows), images.reader(ROOT / "data/test_images"))
    except StageError as error:
        return f"Left out, the contact sheet: {error}."
    classes = pd.unique(rows[["label", "before", "predicted"]].to_numpy().ravel()).tolist()
    names = dict(zip(classes, pictures.drawable_names(classes), strict=True))
    captions = [
        f"{names[row.label]}\nbase: {names[row.before]}\nnow: {names[row.predicted]}" for row in rows.itertuples()
    ]
    wrong = (rows["label"] != rows["predicted"]).tolist()
    with pictures.style():
        figure = figures.picture_grid("Label, prediction of the base, prediction now", pixels, captions, wrong, 8, "")
        files.atomic_write(sheet, pictures.png(figure))
    return f"Contact sheet: {code(sheet)}"


def code(text: object) -> str:
    """As code, in which Markdown has no other marks; a bar would end the cell of a table."""
    return "-" if text is None else "`" + str(text).replace("`", "'").replace("|", r"\|") + "`"


def table(head: list[str], rows: list[list[str]], numbers: int = 0) -> str:
    """A Markdown table, padded and at most ``WIDTH`` wide for a terminal; its last columns are numbers."""
    widths = [max(map(len, column)) for column in zip(head, *rows[:ROWS], strict=True)]
    while sum(widths) + 3 * len(widths) + 1 > WIDTH:
        widths[widths.index(max(widths))] -= 1
    sides = ["<" if place < len(head) - numbers else ">" for place in range(len(head))]
    rule = ["-" * (width - 1) + (":" if side == ">" else "-") for width, side in zip(widths, sides, strict=True)]
    lines = [
        " | ".join(f"{fit(*each[:2]):{each[2]}{each[1]}}" for each in zip(cells, widths, sides, strict=True))
        for cells in [head, rule, *rows[:ROWS]]
    ]
    more = f"\n\n{len(rows) - ROWS:,} more." if len(rows) > ROWS else ""
    return "\n".join(f"| {line} |" for line in lines) + more if rows else ""


def fit(text: str, width: int) -> str:
    """The text without its middle if it is longer; marks of code at its ends stay."""
    return text if len(text) <= width else f"{text[: width // 2]}…{text[-((width - 1) // 2) :]}"
