"""Tables that label images: CSV and its kin, JSON lines, Parquet.

Each row is an image: the name of its file, its bytes, or its pixels. Columns are named by params, or guessed where
their names are plain.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
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
# In this order; letters and digits of a column's name are compared.
IMAGE_COLUMNS = ("image", "filename", "file", "path", "imagepath", "filepath", "img", "imageid", "imagename", "id")
LABEL_COLUMNS = (
    *("classname", "labelname", "label", "labels", "class", "category", "target", "species", "breed", "name", "y"),
)
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "fold")
PIXEL = re.compile(r"(pixel|px|p)?[_ ]?\d+(x\d+)?", re.IGNORECASE)
MIN_PIXEL_COLUMNS = 16
DELIMITERS = ",;\t|"


@dataclass
class Table:
    """The rows of a table.

    Attributes:
        rows: ``image`` (as written, or a number), ``class_name``, ``split``, ``group`` and ``line``, the row as an
            editor shows it.
        contents: of each row, the bytes of an image file or its pixels; None if the rows name files.
        notes: which columns were taken for what.
        problems: rows that cannot be used, a line each.
    """

    rows: pd.DataFrame
    contents: list[bytes | np.ndarray] | None
    notes: list[str]
    problems: list[str]


def is_table(name: str) -> bool:
    """Whether a file is a table, by its name."""
    return name.lower().endswith(SUFFIXES)


def read(where: str, name: str, content: bytes, options: Annotate, files: Sequence[str]) -> Table:
    """Read a table.

    Args:
        where: named in messages.
        name: of the file.
        content: its bytes.
        options: which columns to take.
        files: that rows may name; they help to guess the column.

    Raises:
        StageError: it is not a table, or has no column of images or of labels.
    """
    frame = _load(where, name, content)
    if frame.empty:
        raise StageError(f"{where}: has no rows")
    columns = _choose(where, frame, options, files)
    pixels = _pixel_columns(frame)
    label = columns["label"]
    rows = pd.DataFrame({"class_name": _text(frame[label]).str.strip()})
    rows["split"] = _splits(where, frame[columns["split"]]) if columns.get("split") else ""
    rows["group"] = _text(frame[columns["group"]]) if columns.get("group") else ""
    rows["line"] = frame.index + (2 if name.lower().endswith((".csv", ".tsv")) else 1)  # a header is row 1
    contents: list[bytes | np.ndarray] | None = None
    stem = PurePosixPath(name).stem
    if pixels:
        contents = _from_columns(where, frame[pixels])
        told = f"{len(pixels)} columns of pixels"
    elif _holds_images(frame, columns["image"]):
        contents = [
            _one_image(where, value, line) for value, line in zip(frame[columns["image"]], rows["line"], strict=True)
        ]
        told = f"images in the column {columns['image']!r}"
    else:
        rows["image"] = _text(frame[columns["image"]])
        told = f"image files in the column {columns['image']!r}"
    if contents is not None:
        rows["image"] = [f"{stem}/{number:06d}" for number in rows["line"]]
    problems = []
    for column in ("class_name", "image"):
        for line in rows["line"][rows[column].str.strip() == ""]:
            problems.append(f"{where}, row {line}: {'label' if column == 'class_name' else 'image'} is empty")
    keep = (rows["class_name"].str.strip() != "") & (rows["image"].str.strip() != "")
    if contents is not None:
        contents = [each for each, kept in zip(contents, keep, strict=True) if kept]
    notes = [f"a table: {told}, labels in {label!r}"]
    notes += [f"{part}s in the column {columns[part]!r}" for part in ("split", "group") if columns.get(part)]
    return Table(rows[keep].reset_index(drop=True), contents, notes, problems)


# --- files ----------------------------------------------------------------------------------------------------------


def _load(where: str, name: str, content: bytes) -> pd.DataFrame:
    suffix = PurePosixPath(name).suffix.lower()
    try:
        if suffix == ".parquet":
            return _load_parquet(content)
        text = content.decode("utf-8-sig")
        if suffix in (".jsonl", ".ndjson"):
            lines = {number: line for number, line in enumerate(text.split("\n")) if line.strip()}
            return pd.DataFrame([_json_row(where, number + 1, line) for number, line in lines.items()], index=[*lines])
        return _load_csv(text, "\t" if suffix == ".tsv" else None)
    except UnicodeDecodeError as error:
        raise StageError(f"{where}: not UTF-8 text: {error}; save it as UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise StageError(f"{where}: not a table: {str(error).strip()}") from None


def _load_csv(text: str, delimiter: str | None) -> pd.DataFrame:
    header = text.partition("\n")[0]
    if delimiter is None:
        delimiter = max(DELIMITERS, key=lambda each: len(next(csv.reader([header], delimiter=each), [])))
    names = next(csv.reader([header.rstrip("\r")], delimiter=delimiter), [])
    pixels = [column for column in names if PIXEL.fullmatch(column)]
    dtype: Any = str
    if len(pixels) >= MIN_PIXEL_COLUMNS:
        dtype = {column: np.uint8 if column in pixels else str for column in names}
    try:
        frame = pd.read_csv(
            io.StringIO(text), sep=delimiter, dtype=dtype, keep_default_na=False, index_col=False,
            skip_blank_lines=len(pixels) >= MIN_PIXEL_COLUMNS,
        )  # fmt: skip
        blank = (frame.isna() | (frame == "")).all(axis=1)  # they stay in the count of the rows
        return frame[~blank] if dtype is str else frame
    except (ValueError, OverflowError) as error:
        raise pd.errors.ParserError(f"a pixel is not a whole number from 0 to 255 ({error})") from None


def _json_row(where: str, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise StageError(f"{where}, row {number}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise StageError(f'{where}, row {number}: must be an object such as {{"image": "1.png", "label": "cat"}}')
    return row


def _load_parquet(content: bytes) -> pd.DataFrame:

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise pd.errors.ParserError(str(error).partition("\n")[0]) from None
    frame = pd.DataFrame(table.to_pydict())
    # Hugging Face keeps the names of classes in the schema: a label is then their number.
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for column, feature in features.items():
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and "names" in feature:
            names = feature["names"]
            frame[column] = ["" if value is None or value < 0 else names[value] for value in frame[column]]
    return frame


# --- columns --------------------------------------------------------------------------------------------------------


def _choose(where: str, frame: pd.DataFrame, options: Annotate, files: Sequence[str]) -> dict[str, str]:
    """The columns by what they are: named by params, or guessed."""
    chosen: dict[str, str] = {}
    known = ", ".join(map(str, frame.columns[:20])) + (", ..." if len(frame.columns) > 20 else "")
    for part in ("image", "label", "split", "group"):
        name = getattr(options, f"{part}_column")
        if name in ("auto", "none"):
            continue
        if name not in frame.columns:
            raise StageError(f"{where}: has no column {name!r}, which annotate.{part}_column names; it has {known}")
        chosen[part] = name
    pixels = set(_pixel_columns(frame))
    free = [column for column in frame.columns if column not in {*chosen.values(), *pixels}]
    by_key = {re.sub(r"[^a-z0-9]", "", str(column).lower()): column for column in reversed(free)}

    def guess(part: str, keys: Sequence[str]) -> None:
        found = next((by_key[key] for key in keys if key in by_key), None)
        if part not in chosen and found is not None and found not in chosen.values():
            chosen[part] = found

    if not pixels:
        guess("image", IMAGE_COLUMNS)
        if "image" not in chosen:
            names = {key for file in files for key in (file, PurePosixPath(file).name, PurePosixPath(file).stem)}
            for column in free:
                if column not in chosen.values() and frame[column].astype(str).head(100).isin(names).mean() > 0.5:
                    chosen["image"] = column
                    break
    guess("label", LABEL_COLUMNS)
    if options.split_column == "auto":
        guess("split", SPLIT_COLUMNS)
        if "split" in chosen and not _are_splits(frame[chosen["split"]]):
            del chosen["split"]
    rest = [column for column in free if column not in chosen.values()]
    if "label" not in chosen and len(rest) == 1:
        chosen["label"] = rest[0]
    for part in ("image", "label"):
        if part not in chosen and not (part == "image" and pixels):
            raise StageError(f"{where}: which column has the {part}s? Name it: annotate.{part}_column; it has {known}")
    return chosen


def _pixel_columns(frame: pd.DataFrame) -> list[str]:
    found = [column for column in frame.columns if PIXEL.fullmatch(str(column))]
    return found if len(found) >= MIN_PIXEL_COLUMNS else []


def _text(values: pd.Series) -> pd.Series:
    return values.map(lambda value: "" if value is None or value != value else str(value)).astype(str)


def _are_splits(values: pd.Series) -> bool:
    return set(_text(values).str.lower()) <= {*SPLIT_WORDS, ""}


def _splits(where: str, values: pd.Series) -> pd.Series:
    text = _text(values).str.strip().str.lower()
    strange = [value for value in text.unique() if value not in (*SPLIT_WORDS, "")]
    if strange:
        raise StageError(f"{where}: {shorten(map(repr, strange))} is no split; the splits are train, val and test")
    return text.map(lambda value: SPLIT_WORDS.get(value, ""))


# --- images in a table ----------------------------------------------------------------------------------------------


def _holds_images(frame: pd.DataFrame, column: str) -> bool:
    return bool(column) and len(frame) > 0 and isinstance(frame[column].iloc[0], bytes | dict | list)


def _one_image(where: str, value: Any, line: int) -> bytes | np.ndarray:
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        try:
            array = np.asarray(value)
            if array.ndim == 1:
                return np.asarray(_square(where, array[None])[0])
            if array.ndim in (2, 3) and array.min() >= 0 and array.max() <= 255:
                return array.astype(np.uint8)
        except ValueError:
            pass
    raise StageError(f"{where}, row {line}: holds neither the bytes of an image nor its pixels from 0 to 255")


def _from_columns(where: str, frame: pd.DataFrame) -> list[bytes | np.ndarray]:
    try:
        values = frame.to_numpy(np.int64)
    except ValueError as error:
        raise StageError(f"{where}: a pixel is not a whole number from 0 to 255 ({error})") from None
    return [*_square(where, values)]


def _square(where: str, values: np.ndarray) -> np.ndarray:
    """Rows of pixels as square images, ``(N, H, W) uint8``, or ``(N, H, W, 3)`` if only that makes a square."""
    if values.min() < 0 or values.max() > 255:
        raise StageError(f"{where}: pixels must be from 0 to 255; there is {values.min()} and {values.max()}")
    for shape in ((1,), (3,)):
        side = round((values.shape[1] / shape[0]) ** 0.5)
        if side * side * shape[0] == values.shape[1]:
            tail = () if shape == (1,) else shape
            return values.astype(np.uint8).reshape(len(values), side, side, *tail)
    raise StageError(f"{where}: {values.shape[1]} pixels make no square image, neither gray nor RGB")
