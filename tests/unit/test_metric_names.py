"""No key of a metric, param or plot is a word to which DVC gives a meaning, or it would show something else."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from classifier import yaml_file
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


def keys(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key)
            yield from keys(value)


def declared(group: str, suffix: str) -> list[Path]:
    stages = yaml_file.load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    found = [Path(next(iter(out))) for stage in stages.values() for out in stage.get(group, [])]
    return [path for path in found if path.suffix == suffix]


def test_words_are_those_of_the_installed_dvc() -> None:
    assert {"step", "rev", "filename", "field", "src", "type"} <= RENDERED
    assert nested_contains({"a": {"error": 1}}, "error")


@pytest.mark.parametrize("path", declared("metrics", ".json"), ids=str)
def test_metric_keys_mean_nothing_to_dvc(path: Path) -> None:
    found = set(keys(json.loads((REPOSITORY / path).read_text())))
    assert found
    assert not {key.lower() for key in found} & (RESULTS | COLUMNS | RENDERED)


def test_param_keys_mean_nothing_to_dvc() -> None:
    found = set(keys(yaml_file.load((REPOSITORY / "params.yaml").read_text())))
    assert not {key.lower() for key in found} & ((RESULTS | COLUMNS | RENDERED) - PARAMS_MAY)


def test_plot_columns_mean_nothing_to_dvc() -> None:
    plots = yaml_file.load((REPOSITORY / "dvc.yaml").read_text())["plots"]
    shown = {path: names for plot in plots for options in plot.values() for path, names in options["y"].items()}
    assert shown
    for path, names in shown.items():
        columns = set(names if isinstance(names, list) else [names])
        with (REPOSITORY / path).open() if (REPOSITORY / path).exists() else Path("/dev/null").open() as stream:
            columns |= set(next(csv.reader(stream), []))
        assert not {column.lower() for column in columns} & (RESULTS | COLUMNS | RENDERED), path
