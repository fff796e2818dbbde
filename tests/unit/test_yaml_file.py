"""YAML is read as DVC reads it."""

from classifier import yaml_file

import pytest
import yaml
from dvc.utils.serialize import parse_yaml


@pytest.mark.parametrize(
    "scalar", ["1e-3", "010", "-010", "0o10", "0x1F", "yes", "on", "True", "~", ".5", "12:30", ".inf", "1_000", "text"]
)
def test_values_equal_those_that_dvc_reads(scalar: str) -> None:
    text = f"a: {scalar}\n"
    ours, theirs = yaml_file.load(text), parse_yaml(text, "params.yaml")
    assert (ours, type(ours["a"])) == (theirs, type(theirs["a"]))


@pytest.mark.parametrize("text", ["a: [1", "a: 1\na: 2", "a: -_", "\ta: 1", "a: *b", "{", "a: 1\n b: 2", "a: \0"])
def test_text_that_is_not_yaml_raises_one_line(text: str) -> None:
    with pytest.raises(yaml_file.YAMLFileError, match=r"\A.+\Z"):
        yaml_file.load(text)


def test_pyyaml_reads_other_values() -> None:
    assert yaml.safe_load("1e-3") == "1e-3"
    assert yaml_file.load("1e-3") == 0.001
    assert yaml.safe_load("010") == 8
    assert yaml_file.load("010") == 10
