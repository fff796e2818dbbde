"""YAML as DVC reads it: YAML 1.2, with the same library (ruamel.yaml).

PyYAML follows YAML 1.1, where ``1e-3`` is text, ``010`` is eight and ``yes`` is true. With it, a stage and DVC would
see different values in one file. The import takes 30 ms, PyYAML's 20.
"""

import json
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError


class YAMLFileError(ValueError):
    """The text is not YAML. ``line`` counts from 1; it is None where the parser does not tell."""

    def __init__(self, problem: str, line: int | None):
        super().__init__(problem)
        self.line = line


def load(text: str) -> Any:
    """The content of a YAML document.

    Raises:
        YAMLFileError: a syntax error, a duplicated key, or a value that cannot be read.
    """
    try:
        return YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        raise YAMLFileError(str(error.problem), mark.line + 1 if mark else None) from None
    except (YAMLError, ValueError) as error:  # ValueError: a number such as `-_`, at which the parser stumbles
        raise YAMLFileError(str(error).partition("\n")[0], None) from None


def flatten(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections by their whole dotted keys."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def as_text(section: dict[str, Any]) -> dict[str, str]:
    """The same, each value in one line as the file may have it."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flatten(section).items()}
