"""Tables that label images: CSV and its kin, JSON lines, Parquet.

Each row is an image: the name of its file, its bytes, or its pixels. A column is named by params, or the only one of
a name in the lists below.
"""

import csv
import io
import json
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
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
    "image": ("image", "imageid", "imagename", "imagepath", "file", "filename", "filepath", "path", "id", "pixels"),
}
PIXEL = re.compile(r"(?:pixel|px|p|v)?[_ ]?(\d+)(?:x(\d+))?", re.IGNORECASE)
NUMBERS = re.compile(r"\s*\d+(\s+\d+){15,}\s*")
MIN_PIXEL_COLUMNS = 16
DELIMITERS = ",;\t|"
WHOLE = "pixels must be whole numbers from 0 to 255"


def is_table(name: str) -> bool:
    """Whether a file is a table, by its name."""
    return name.lower().endswith(SUFFIXES)


def read(where: str, name: str, content: bytes, options: Annotate, problems: list[str]) -> tuple[pd.DataFrame, str]:
    """Read a table from the bytes of a file of that name; ``where`` begins each message, and each of the problems.

    Returns:
        Rows of ``image`` (as written, or a unique name), ``class_name``, ``split``, ``group``, ``line`` (in an editor)
        and ``content``: the bytes of an image file or its pixels, or None if the row names a file. And a note that says
        which columns were taken for what.

    Raises:
        StageError: it is not a table, or a column is missing or holds something else.
    """
    try:
        frame = _load(name, content)
        chosen, pixels = _choose(frame, options)
        cells: dict[str, Any] = {part: frame[chosen[part]] for part in chosen}
        splits = _splits(cells["split"]) if "split" in chosen else [""] * len(frame)
        if pixels:
            cells["image"] = _square(frame[pixels].to_numpy())
    except (ValueError, OverflowError, OSError, csv.Error, pa.ArrowException, pd.errors.ParserWarning) as error:
        begin = f"{where}: " + "not a table as UTF-8 text or Parquet: " * (type(error) is not ValueError)
        raise StageError(begin + str(error).strip().partition("\n")[0]) from None
    first = 2 if name.lower().endswith((".csv", ".tsv")) else 1  # a header is row 1
    rows = []
    columns = (cells.get(part, [None] * len(frame)) for part in ("label", "group", "image"))
    for line, split, label, group, image in zip(frame.index + first, splits, *columns, strict=True):
        try:
            class_name, picture = _text(label, "label"), _content(image)
            written = _text(image, "image") if picture is None else f"{PurePosixPath(name).stem}/{line:06d}"
            if not class_name or not written:
                raise ValueError(f"{'image' if class_name else 'label'} is empty")
            rows.append((written, class_name, split, _text(group, "group"), line, picture))
        except ValueError as error:
            problems.append(f"{where}, row {line}: {error}")
    found = pd.DataFrame(rows, columns=["image", "class_name", "split", "group", "line", "content"])
    are_names = found["content"].isna()
    if are_names.nunique() > 1:
        raise StageError(f"{where}: {chosen['image']!r} holds both images and names of files")
    kind = "pixels" if pixels else "file names" if are_names.all() else "images"
    unused = [column for column in frame.columns if column not in {*chosen.values(), *pixels}]
    note = ", ".join(f"{part}: {column}" for part, column in chosen.items()) + "; not used: " * bool(unused)
    return found, f"a table of {kind} ({note}{shorten(unused)})"


# --- files ----------------------------------------------------------------------------------------------------------


def _load(name: str, content: bytes) -> pd.DataFrame:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".parquet":
        return _load_parquet(content)
    text = content.decode("utf-8-sig")
    if suffix in (".csv", ".tsv"):
        return _load_csv(text, "\t" if suffix == ".tsv" else DELIMITERS)
    rows: dict[int, Any] = {}
    for number, line in enumerate(text.split("\n")):
        try:
            rows |= {number: json.loads(line)} if line.strip() else {}
        except ValueError as error:
            raise ValueError(f"row {number + 1}: not JSON: {error}") from None
        if not isinstance(rows.get(number, {}), dict):
            raise ValueError(f'row {number + 1}: must be an object such as {{"image": "1.png", "label": "cat"}}')
    return pd.DataFrame([*rows.values()], index=[*rows])


def _load_csv(text: str, delimiters: str) -> pd.DataFrame:
    header = text.partition("\n")[0].rstrip("\r")
    names, delimiter = max(
        ((next(csv.reader([header], delimiter=each), []), each) for each in delimiters), key=lambda pair: len(pair[0])
    )
    if twice := [column for column in names if names.count(column) > 1]:
        raise ValueError(f"{twice[0]!r} names several columns; its first row must name the columns")
    pixels = _pixel_columns(names)
    is_wide = bool(pixels)
    dtype: Any = dict.fromkeys(names, str) | dict.fromkeys(pixels, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # cells without a column
        try:
            frame = pd.read_csv(
                io.StringIO(text), sep=delimiter, dtype=dtype, keep_default_na=False, index_col=False,
                skip_blank_lines=is_wide,
            )  # fmt: skip
        except (ValueError, OverflowError) as error:
            if not is_wide or isinstance(error, pd.errors.ParserError):
                raise
            raise ValueError(f"{WHOLE} ({error})") from None
    # Empty rows stay in the count of the rows.
    return frame if is_wide else frame[~(frame.isna() | (frame == "")).all(axis=1)]


def _load_parquet(content: bytes) -> pd.DataFrame:
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    columns = table.to_pydict()
    # Hugging Face keeps the names of classes in the schema: a label is then their number, -1 if there is none.
    schema = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    features = schema.get("features", {}).items()
    named = {name: each["names"] for name, each in features if each.get("_type") == "ClassLabel"}
    for column in named.keys() & columns.keys():
        names, labels = named[column], columns[column]
        if outside := [label for label in labels if label is not None and label not in range(-1, len(names))]:
            raise ValueError(f"the label {outside[0]!r:.99} is none of the {len(names)} class names of the schema")
        columns[column] = [None if label in (None, -1) else names[int(label)] for label in labels]
    return pd.DataFrame(columns)


# --- columns --------------------------------------------------------------------------------------------------------


def _choose(frame: pd.DataFrame, options: Annotate) -> tuple[dict[str, str], list[str]]:
    """The columns by what they are, and those of pixels in order."""
    if frame.empty:
        raise ValueError("has no rows")
    known = shorten(map(str, frame.columns), 20)
    named = {part: getattr(options, f"{part}_column") for part in COLUMNS}
    for part, name in named.items():
        if name not in ("auto", "none", *frame.columns):
            raise ValueError(f"has no column {name!r}, which annotate.{part}_column names; it has {known}")
    chosen = {part: name for part, name in named.items() if name in frame.columns}
    pixels: list[str] = []
    for part, keys in COLUMNS.items():
        if part == "image" and named[part] == "auto":
            pixels = _pixel_columns(name for name in frame.columns if name not in chosen.values())
        if named[part] != "auto" or pixels:
            continue
        found = [each for each in frame.columns if re.sub(r"[^a-z0-9]", "", str(each).lower()) in keys]
        if len(found) == 1:
            chosen[part] = found[0]
        elif found or part in ("image", "label"):
            advice = f"name the column of the {part}s: annotate.{part}_column"
            raise ValueError(f"{advice}; it has {known}; its first row must name them, or name another annotate.table")
    return chosen, pixels


def _pixel_columns(names: Iterable[str]) -> list[str]:
    """By the numbers in their names; those of 1x1, 1x2, ... are row and column."""
    found = {name: PIXEL.fullmatch(str(name)) for name in names}
    numbers = {name: (int(match[1]), int(match[2] or 0)) for name, match in found.items() if match}
    return sorted(numbers, key=lambda name: numbers[name]) if len(numbers) >= MIN_PIXEL_COLUMNS else []


def _splits(values: pd.Series) -> list[str]:
    text = ["" if value is None or value != value else str(value).strip().lower() for value in values]
    if strange := [value for value in dict.fromkeys(text) if value not in (*SPLIT_WORDS, "")]:
        advice = "the splits are train, val and test; annotate.split_column: none draws them"
        raise ValueError(f"{shorten(map(repr, strange))} is no split; {advice}")
    return [SPLIT_WORDS.get(value, "") for value in text]


def _text(value: Any, part: str) -> str:
    """A cell without blanks around it; integers beside a missing value are floats in pandas."""
    if value is None or value != value:
        return ""
    if isinstance(value, list | dict | bytes):
        kind = type(value).__name__
        raise ValueError(f"the {part} is {'a ' * (kind != 'bytes')}{kind}; text or a number is needed")
    text = f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value).strip()
    if not text.isprintable():
        raise ValueError(f"the {part} {text!r} has a character that cannot be shown")
    return text


def _content(value: Any) -> bytes | np.ndarray | None:
    """The image in a cell; None if the cell names a file."""
    if isinstance(value, str) and NUMBERS.fullmatch(value):
        value = [int(number) for number in value.split()]
    if isinstance(value, dict):
        value = value.get("bytes") or []
    if isinstance(value, list):
        array = np.array([])
        with suppress(ValueError):  # rows of different lengths
            array = np.array(value)
        if not array.size or array.dtype.kind not in "iuf" or array.ndim > 3 or array.shape[2:] not in ((), (1,), (3,)):
            raise ValueError("holds neither the bytes of an image nor its pixels: rows, rows of RGB, or all in a list")
        return _square(array[None])[0] if array.ndim == 1 else _bytes(array)
    return value if isinstance(value, bytes | np.ndarray) else None


def _bytes(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise ValueError(WHOLE)
    return values.astype(np.uint8).squeeze(-1) if values.shape[2:] == (1,) else values.astype(np.uint8)


def _square(values: np.ndarray) -> np.ndarray:
    """Rows of pixels as square images, ``(N, H, W) uint8``, or ``(N, H, W, 3)``, interleaved, if only that fits."""
    if values.dtype == object:
        values = np.array(values.tolist())
    for channels in (1, 3):
        side = round((values.shape[1] / channels) ** 0.5)
        if side * side * channels == values.shape[1]:
            return _bytes(values.reshape(len(values), side, side, *[3] * (channels == 3)))
    raise ValueError(f"{values.shape[1]} pixels make no square image, neither gray nor RGB")
