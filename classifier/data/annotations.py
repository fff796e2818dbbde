"""The annotations CSV: one row per image, with the header ``image,label,class_name,split``.

``image`` is the name of an image in its folder, ``label`` counts from 0, ``split`` is train, val or test. Other columns
are ignored, so people may add their own, for notes.
"""

import warnings
from pathlib import Path

from classifier.errors import StageError

import pandas as pd

COLUMNS = ["image", "label", "class_name", "split"]
SPLITS = ["train", "val", "test"]
OUTSIDE_THE_FOLDER = r"^/|^[A-Za-z]:|\\|(?:^|/)\.\.(?:/|$)"  # absolute, a drive, or a ".." component


def write(path: Path, annotations: pd.DataFrame) -> None:
    """Write the rows sorted by image, with the same line endings on every system."""
    annotations.sort_values("image")[COLUMNS].to_csv(path, index=False, lineterminator="\n")


def read(path: str | Path) -> pd.DataFrame:
    """Read and check an annotations file; ``label`` is an integer column.

    Raises:
        StageError: a column is missing, or a row has an empty, duplicate or invalid value; the message gives its line
            in an editor as the row, the header being row 1.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more fields than the header
            rows = pd.read_csv(
                path, dtype=str, keep_default_na=False, encoding="utf-8", index_col=False, skip_blank_lines=False
            )
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `dvc repro annotate` makes it") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: not a UTF-8 CSV file: {str(error).strip()}") from None

    missing = [column for column in COLUMNS if column not in rows.columns]
    if missing:
        raise StageError(f"{path}: has no column {missing[0]!r}; its header must hold {','.join(COLUMNS)}")
    rows = rows.fillna("")
    rows = rows[(rows != "").any(axis=1)]  # without blank lines, whose place in the numbers of the rows stays
    if rows.empty:
        raise StageError(f"{path}: has a header but no rows")

    def refuse(bad: pd.Series, column: str, wanted: str) -> None:
        if bad.any():
            first = rows[bad].reset_index(names="line").iloc[0]
            raise StageError(f"{path}, row {first['line'] + 2}: {column} '{first[column]}' {wanted}")  # 1: the header

    for column in COLUMNS:
        refuse(rows[column].str.strip() == "", column, "is empty")
    refuse(~rows["split"].isin(SPLITS), "split", f"must be one of {', '.join(SPLITS)}")
    refuse(~rows["label"].str.fullmatch("[0-9]{1,9}"), "label", "must be a whole number from 0")
    refuse(rows["image"].duplicated(), "image", "is duplicated")
    refuse(rows["image"].str.contains(OUTSIDE_THE_FOLDER), "image", "must be a path below the image folder, with /")

    rows["label"] = rows["label"].astype(int)
    first_name = rows.groupby("label")["class_name"].transform("first")
    refuse(rows["class_name"] != first_name, "class_name", "differs from an earlier row of the same label")
    first_label = rows.groupby("class_name")["label"].transform("first")
    refuse(rows["label"] != first_label, "class_name", "had another label in an earlier row")
    classes = rows["label"].nunique()
    refuse(rows["label"] >= classes, "label", f"is out of range: {classes} classes are numbered 0 to {classes - 1}")
    return rows.reset_index(drop=True)


def class_names(annotations: pd.DataFrame) -> list[str]:
    """The names of classes 0, 1, ... in that order."""
    return annotations.drop_duplicates("label").sort_values("label")["class_name"].tolist()
