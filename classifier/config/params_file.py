"""Reading params.yaml, and the one line that says what is wrong with it.

Every stage validates the whole file, so a typo in ``export`` stops ``download``, not a run that trained for an hour.
"""

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from classifier import yaml_file
from classifier.config.fields import Section
from classifier.config.schema import Params
from classifier.errors import ParamsError

from pydantic import ValidationError

TYPE = re.compile(r"bool|constrained-.*|.*\[.*")  # pydantic's names of those that a value may have
Schema = TypeVar("Schema", bound=Section)


def read(path: Path = Path("params.yaml"), overrides: Mapping[str, Any] | None = None) -> tuple[Params, dict[str, Any]]:
    """The validated parameters, and the same as plain data.

    Args:
        path: of the file.
        overrides: other values by dotted key, those of ``-S``.

    Raises:
        ParamsError: the file is missing or not YAML, or a key is unknown, missing, mistyped or out of range.
    """
    content = load(path)
    params = validate(content, f"{path}: ")
    if overrides:
        content = replaced(content, overrides, "-S ")
        params = validate(content)
    return params, content


def parse_overrides(changes: Iterable[str]) -> dict[str, Any]:
    """Other values by dotted key, spelled as for ``dvc exp run -S``: ``train.epochs=8``.

    Raises:
        ParamsError: one is not KEY=VALUE.
    """
    overrides = {}
    for change in changes:
        key, separator, value = change.removeprefix("params.yaml:").partition("=")
        try:
            overrides[key] = yaml_file.load(value)
        except yaml_file.YAMLFileError:
            separator = ""
        if not separator:
            raise ParamsError(f"-S {change}: must be KEY=VALUE, such as train.epochs=8")
    return overrides


def load(path: Path) -> dict[str, Any]:
    """The sections of a YAML file, as plain data.

    Raises:
        ParamsError: it is missing or not YAML.
    """
    try:
        content = yaml_file.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing; `git checkout {path}` brings it back") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 text: {error}") from None
    except yaml_file.YAMLFileError as error:
        where = f", line {error.line}" if error.line else ""
        raise ParamsError(f"{path}{where}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: must hold sections such as `train:`; it holds {content!r}")
    return content


def validate(content: dict[str, Any], where: str = "") -> Params:
    """The parameters that plain data hold; see ``validate_as``."""
    return validate_as(Params, content, where)


def validate_as(schema: type[Schema], content: dict[str, Any], where: str = "") -> Schema:
    """Plain data as an object of their schema; ``where`` begins the message of an error.

    Raises:
        ParamsError: a key is unknown, missing, mistyped or out of range.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        details = sorted(error.errors(include_url=False), key=_says_less)
        lines = [_explain(detail, schema) for detail in details]
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise ParamsError(f"{where}{lines[0]}{more}") from None


def replaced(content: dict[str, Any], values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The same parameters with other values by their dotted keys, which are validated.

    Raises:
        ParamsError: there is no such key, or a value is not allowed.
    """
    content = copy.deepcopy(content)
    for key, value in values.items():
        *sections, last = key.split(".")
        section: Any = content
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise ParamsError(f"{where}{key}: no such key in params.yaml")
        section[last] = value
    validate(content, where)
    return content


def _says_less(detail: Any) -> bool:
    """Whether another finding explains more.

    A misspelled key is unknown under one name and missing under another. A value that may be a word or something else
    is explained as what it looks like.
    """
    is_other = (detail["type"] == "literal_error") != isinstance(detail["input"], str)
    return detail["type"] == "missing" or (is_other and any(map(TYPE.fullmatch, map(str, detail["loc"]))))


def _explain(detail: Any, schema: type[Section]) -> str:
    """One of pydantic's findings as ``section.key: what is wrong``."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(part for part in location if not TYPE.fullmatch(part))
    match detail["type"]:
        case "extra_forbidden":
            known = _keys_of(location[:-1], schema)
            close = difflib.get_close_matches(location[-1], known, n=1)
            return f"{key}: unknown key; " + (f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}")
        case "missing":
            return f"{key}: missing"
        case "string_pattern_mismatch":
            return f"{key}: must be a name, without folders and blanks at its ends; it is {detail['input']!r}"
        case "too_short":
            return f"{key}: must have at least {detail['ctx']['min_length']} values; it is {detail['input']!r}"
        case "value_error":
            return f"{key}.{detail['ctx']['error']}".lstrip(".").replace(".:", ":")
    wanted = detail["msg"].replace("Input should be ", "must be ")
    return f"{key}: {wanted}; it is {detail['input']!r}"


def _keys_of(location: list[str], schema: type[Section]) -> list[str]:
    """The keys that the schema knows in a section, given by its path from the top."""
    section: Any = schema
    for part in location:
        section = section.model_fields[part].annotation if hasattr(section, "model_fields") else get_args(section)[-1]
    return [field.alias or name for name, field in section.model_fields.items()]
