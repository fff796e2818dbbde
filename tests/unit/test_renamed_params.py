"""Whoever has the old name of a param is told the new one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier import config, yaml_file
from classifier.errors import ParamsError
from tests.project import PARAMS


def params() -> dict[str, Any]:
    content: dict[str, Any] = yaml_file.load(PARAMS.read_text())
    return content


def refused(content: dict[str, Any], folder: Path) -> str:
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ParamsError) as caught:
        config.read(folder / "params.yaml")
    return str(caught.value)


def container(content: dict[str, Any], key: str) -> dict[str, Any]:
    """The section that a key is in."""
    for name in key.split(".")[:-1]:
        content = content[name]
    return content


@pytest.mark.parametrize(("old", "new"), config.RENAMED.items())
def test_old_name_is_refused_with_the_new_one(old: str, new: str, tmp_path: Path) -> None:
    content = params()
    value = container(content, new).pop(new.rpartition(".")[2])  # KeyError: there is no such param
    container(content, old)[old.rpartition(".")[2]] = value  # as in a file from before
    assert f"params.yaml: {old}: was renamed to {new}" in refused(content, tmp_path)


@pytest.mark.parametrize(("key", "old", "new"), [(*pair, new) for pair, new in config.RENAMED_VALUES.items()])
def test_old_value_is_refused_with_the_new_one(key: str, old: str, new: str, tmp_path: Path) -> None:
    content = params()
    section, name = key.split(".")
    content[section][name] = new
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    config.read(tmp_path / "params.yaml")  # the new one is taken
    content[section][name] = old
    assert f"{key}: {old} was renamed to {new}" in refused(content, tmp_path)
