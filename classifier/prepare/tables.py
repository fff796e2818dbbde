"""Tables that label images: CSV and its kin, JSON lines, Parquet.

Each row is an image: the name of its file, its bytes, or its pixels. A column is named by params, or the only one of
a name in the lists below.
"""

import csv
import io
import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from classifier.config.schema import Annotate
from classifier.errors import StageError, shorten
from classifier.prepare.splits import SPLIT_WORDS

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
# Of a column's name, letters and digits are compared.
COLUMNS = {
    "label": ("label", "labels", "labelname", "class", "classname", "category", "target", "species", "breed"),
    "split": ("split", "subset", "partition", "set"),
    "group": (),
    "image": ("image", "imageid", "imagename", "imagepath", "img", "file", "filename", "filepath", "path", "id", "pixels"),
}  # fmt: skip
PIXEL = re.compile(r"(?:pixel|px|p|v)?[_ ]?(\d+)(?:x(\d+))?", re.IGNORECASE)
NUMBERS = re.compile(r"\s*\d+(\s+\d+){15,}\s*")
MIN_PIXEL_COLUMNS = 16
DELIMITERS = ",;\t|"
WHOLE = "pixels must be whole numbers from 0 to 255"


@dataclass
class Table:
    """The rows of a table.

    Attributes:
        rows: ``image`` (as written, or a unique name), ``class_name``, ``split``, ``group`` and ``line``, the row as
            an editor shows it.
        contents: of each row, the bytes of an image file or its pixels; None if it names a file.
        note: which columns were taken for what.
        problems: rows that cannot be used, a line each.
    """

    rows: pd.DataFrame
    contents: list[bytes | np.ndarray | None] = field(default_factory=list)
    note: str = ""
    problems: list[str] = field(default_factory=list)


def is_table(name: str) -> bool:
    """Whether a file is a table, by its name."""
    return name.lower().endswith(SUFFIXES)


def read(where: str, name: str, content: bytes, options: Annotate) -> Table:
    """Read a table.

    Args:
        where: named in messages.
        name: of the file.
        content: its bytes.
        options: which columns to take.

    Raises:
        StageError: it is not a table, or a column is missing or holds something else.
    """
    frame = _load(where, name, content)
    if frame.empty:
        raise StageError(f"{where}: has no rows")
    chosen, pixels = _choose(where, frame, options)
    empty = [None] * len(frame)
    splits = _splits(where, frame[chosen["split"]]) if "split" in chosen else [""] * len(frame)
    lines = frame.index + (2 if name.lower().endswith((".csv", ".tsv")) else 1)  # a header is row 1
    labels, groups, images = (frame[chosen[part]] if part in chosen else empty for part in ("label", "group", "image"))
    if pixels:
        images = _from_columns(where, frame[pixels])
    table, rows = Table(frame), []
    for line, label, split, group, image in zip(lines, labels, splits, groups, images, strict=True):
        try:
            class_name = _class_name(label)
            content_of_row = image if isinstance(image, np.ndarray) else _content(image)
            written = _text(image, "image") if content_of_row is None else f"{PurePosixPath(name).stem}/{line:06d}"
            if not written:
                raise ValueError("image is empty")
            rows.append((written, class_name, split, _text(group, "group"), line))
            table.contents.append(content_of_row)
        except ValueError as error:
            table.problems.append(f"{where}, row {line}: {error}")
    table.rows = pd.DataFrame(rows, columns=["image", "class_name", "split", "group", "line"])
    kind = "pixels" if pixels else "file names" if all(each is None for each in table.contents) else "images"
    taken = [f"{part}: {column}" for part, column in chosen.items()]
    unused = [column for column in frame.columns if column not in {*chosen.values(), *pixels}]
    table.note = f"a table of {kind} ({', '.join(taken)}{'; not used: ' * bool(unused)}{shorten(unused)})"
    return table


# --- files ----------------------------------------------------------------------------------------------------------


def _load(where: str, name: str, content: bytes) -> pd.DataFrame:
    suffix = PurePosixPath(name).suffix.lower()
    try:
        if suffix == ".parquet":
            return _load_parquet(where, content)
        text = content.decode("utf-8-sig")
        if suffix in (".jsonl", ".ndjson"):
            lines = {number: line for number, line in enumerate(text.split("\n")) if line.strip()}
            return pd.DataFrame([_json_row(where, number + 1, line) for number, line in lines.items()], index=[*lines])
        return _load_csv(where, text, "\t" if suffix == ".tsv" else None)
    except UnicodeDecodeError as error:
        raise StageError(f"{where}: not UTF-8 text: {error}; save it as UTF-8") from None
    except pd.errors.ParserWarning:
        raise StageError(
            f"{where}: a row has more cells than columns; quote cells that contain the delimiter"
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise StageError(f"{where}: not a table: {str(error).strip()}") from None
    except (ValueError, OverflowError) as error:
        raise StageError(f"{where}: {WHOLE}; {error}") from None


def _load_csv(where: str, text: str, delimiter: str | None) -> pd.DataFrame:
    header = text.partition("\n")[0]
    if delimiter is None:
        delimiter = max(DELIMITERS, key=lambda each: len(next(csv.reader([header], delimiter=each), [])))
    names = next(csv.reader([header.rstrip("\r")], delimiter=delimiter), [])
    if twice := [column for column in names if names.count(column) > 1]:
        raise StageError(f"{where}: {twice[0]!r} names several columns; its first row must name the columns")
    pixels = [column for column in names if PIXEL.fullmatch(column)]
    is_wide = len(pixels) >= MIN_PIXEL_COLUMNS
    dtype: Any = {column: np.uint8 if is_wide and column in pixels else str for column in names}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(
            io.StringIO(text), sep=delimiter, dtype=dtype, keep_default_na=False, index_col=False,
            skip_blank_lines=is_wide,
        )  # fmt: skip
    return (
        frame if is_wide else frame[~(frame.isna() | (frame == "")).all(axis=1)]
    )  # they stay in the count of the rows


def _json_row(where: str, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise StageError(f"{where}, row {number}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise StageError(f'{where}, row {number}: must be an object such as {{"image": "1.png", "label": "cat"}}')
    return row


def _load_parquet(where: str, content: bytes) -> pd.DataFrame:
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise pd.errors.ParserError(str(error).partition("\n")[0]) from None
    columns = table.to_pydict()
    # Hugging Face keeps the names of classes in the schema: a label is then their number, -1 if there is none.
    try:
        features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})["features"]
        named = {name: each["names"] for name, each in features.items() if each.get("_type") == "ClassLabel"}
    except KeyError:
        named = {}
    except (ValueError, AttributeError):
        raise StageError(f"{where}: the Hugging Face metadata are not JSON of a schema") from None
    for column in named.keys() & columns.keys():
        names, labels = named[column], columns[column]
        if outside := [label for label in labels if label is not None and not -1 <= label < len(names)]:
            raise StageError(f"{where}: the label {outside[0]} is none of the {len(names)} class names of the schema")
        columns[column] = [None if label in (None, -1) else names[label] for label in labels]
    return pd.DataFrame(columns)


# --- columns --------------------------------------------------------------------------------------------------------


def _choose(where: str, frame: pd.DataFrame, options: Annotate) -> tuple[dict[str, str], list[str]]:
    """The columns by what they are, and those of pixels in order."""
    chosen: dict[str, str] = {}
    pixels: list[str] = []
    known = ", ".join(map(str, frame.columns[:20])) + (", ..." if len(frame.columns) > 20 else "")
    for part in COLUMNS:
        if (name := getattr(options, f"{part}_column")) not in ("auto", "none", *frame.columns):
            raise StageError(f"{where}: has no column {name!r}, which annotate.{part}_column names; it has {known}")
        if name in frame.columns:
            chosen[part] = name
    for part, keys in COLUMNS.items():
        if part in chosen or getattr(options, f"{part}_column") == "none":
            continue
        if part == "image" and (pixels := _pixel_columns(frame, chosen)):
            continue
        found = [each for each in frame.columns if re.sub(r"[^a-z0-9]", "", str(each).lower()) in keys]
        if len(found) == 1:
            chosen[part] = found[0]
        elif found or part in ("image", "label"):
            raise StageError(
                f"{where}: name the column of the {part}s: annotate.{part}_column; it has {known}; "
                "its first row must name the columns"
            )
    return chosen, pixels


def _pixel_columns(frame: pd.DataFrame, chosen: dict[str, str]) -> list[str]:
    """By the numbers in their names; those of 1x1, 1x2, ... are row and column."""
    found = {name: PIXEL.fullmatch(str(name)) for name in frame.columns if name not in chosen.values()}
    numbers = {name: (int(match[1]), int(match[2] or 0)) for name, match in found.items() if match}
    return sorted(numbers, key=lambda name: numbers[name]) if len(numbers) >= MIN_PIXEL_COLUMNS else []


def _splits(where: str, values: pd.Series) -> list[str]:
    text = [str(value).strip().lower() if isinstance(value, str | int) else "" for value in values]
    if strange := [value for value in dict.fromkeys(text) if value not in (*SPLIT_WORDS, "")]:
        raise StageError(
            f"{where}: {shorten(map(repr, strange))} is no split; the splits are train, val and test; "
            "annotate.split_column: none draws them"
        )
    return [SPLIT_WORDS.get(value, "") for value in text]


def _text(value: Any, part: str) -> str:
    """A cell without blanks around it; integers beside a missing value are floats in pandas."""
    if value is None or value != value:
        return ""
    if isinstance(value, list | dict | bytes):
        kind = type(value).__name__
        raise ValueError(f"the {part} is {'a ' * (kind != 'bytes')}{kind}; text or a number is needed")
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value).strip()


def _class_name(value: Any) -> str:
    name = _text(value, "label")
    if not name:
        raise ValueError("label is empty")
    if not name.isprintable():
        raise ValueError(f"the class {name!r} has a character that cannot be shown")
    return name


# --- images in a table ----------------------------------------------------------------------------------------------


def _content(value: Any) -> bytes | np.ndarray | None:
    """The image in a cell; None if the cell names a file."""
    if isinstance(value, str) and NUMBERS.fullmatch(value):
        value = [int(number) for number in value.split()]
    if isinstance(value, dict):
        value = value.get("bytes") or []
    if isinstance(value, list):
        try:
            array = np.array(value)
        except ValueError:
            array = np.array([])
        if not array.size or array.dtype.kind not in "iuf" or array.ndim > 3 or array.shape[2:] not in ((), (1,), (3,)):
            raise ValueError("holds neither the bytes of an image nor its pixels: rows, rows of RGB, or all in a list")
        return _square(array[None])[0] if array.ndim == 1 else _bytes(array)
    return value if isinstance(value, bytes) else None


def _from_columns(where: str, frame: pd.DataFrame) -> np.ndarray:
    try:
        values = frame.to_numpy()
        return _square(np.array(values.tolist()) if values.dtype == object else values)
    except ValueError as error:
        raise StageError(f"{where}: {error}") from None


def _bytes(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise ValueError(f"{WHOLE}; there are {values.min()} to {values.max()}")
    return values.astype(np.uint8).squeeze(-1) if values.shape[2:] == (1,) else values.astype(np.uint8)


def _square(values: np.ndarray) -> np.ndarray:
    """Rows of pixels as square images, ``(N, H, W) uint8``, or ``(N, H, W, 3)``, interleaved, if only that fits."""
    for tail in ((), (3,)):
        side = round((values.shape[1] / int(np.prod(tail))) ** 0.5)
        if side * side * int(np.prod(tail)) == values.shape[1]:
            return _bytes(values).reshape(len(values), side, side, *tail)
    raise ValueError(f"{values.shape[1]} pixels make no square image, neither gray nor RGB")
