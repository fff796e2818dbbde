"""No key of a metric, param or plot is a word to which DVC gives a meaning, or it would show something else."""

import csv
import json
from collections.abc import Iterator

from classifier import yaml_file
from classifier.yaml_file import flatten
from tests.project import REPOSITORY

import dvc.render
import pytest
from dvc.utils.collections import nested_contains

# In the results of `dvc metrics`, `params` and `plots`: a file's content is under "data", a failure under "error"
# (dvc/utils/__init__.py looks for that key in the whole tree, dvc/repo/metrics/diff.py in each file).
RESULTS = {"data", "error", "errors", "definitions", "sources", "props", "data_source"}
# Columns of `dvc exp show` (dvc/repo/experiments/show.py) and `dvc metrics diff` (dvc/compare.py).
COLUMNS = {"experiment", "rev", "typ", "created", "parent", "state", "executor", "path", "metric", "param", "change",
           "diff", "old", "new", "revision"}  # fmt: skip
# What dvc/render adds to each row of a plot.
RENDERED = {value for name, value in vars(dvc.render).items() if name.isupper() and isinstance(value, str)}
# Params are shown, never drawn, so a section may be called as what only a plot has.
PARAMS_MAY = {"sources", "step"}
DECLARED = yaml_file.load((REPOSITORY / "dvc.yaml").read_text())


def shown() -> Iterator[tuple[str, set[str]]]:
    """The keys and columns that DVC shows, by file."""
    params = yaml_file.load((REPOSITORY / "params.yaml").read_text())
    yield "params.yaml", {word for key in flatten(params) for word in key.split(".")} - PARAMS_MAY
    for stage in DECLARED["stages"].values():
        for path in (next(iter(out)) for out in stage.get("metrics", [])):
            metrics = json.loads((REPOSITORY / path).read_text())
            yield path, {word for key in flatten(metrics) for word in key.split(".")}
    for plot in DECLARED["plots"]:
        for options in plot.values():
            for path, names in options["y"].items():
                file = REPOSITORY / path  # a clone that has pulled nothing lacks it
                header = next(csv.reader(file.read_text().splitlines())) if file.exists() else []
                yield path, {*(names if isinstance(names, list) else [names]), *header}


def test_words_are_those_of_the_installed_dvc() -> None:
    assert {"step", "rev", "filename", "field", "src", "type"} <= RENDERED
    assert nested_contains({"a": {"error": 1}}, "error")


@pytest.mark.parametrize(("path", "words"), [*shown()])
def test_what_dvc_shows_means_nothing_else_to_it(path: str, words: set[str]) -> None:
    assert words
    assert not {word.lower() for word in words} & (RESULTS | COLUMNS | RENDERED), path
