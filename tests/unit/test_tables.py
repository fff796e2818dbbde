"""Tables of images: what is read exactly, and what is refused with its row."""

import io
import json
from pathlib import Path
from typing import Any

from classifier.prepare import labeled_images
from tests.unit.test_labeled_images import options, png, refusal, write

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

CELLS = [[[number * 9 + value for value in range(4)]] * 4 for number in range(6)]  # 6 images of 4x4
BOTH = b"image,label,split\n" + b"".join(
    f"{n}.png,{'ab'[n % 2]},{'train' if n < 4 else 'test'}\n".encode() for n in range(6)
)
FILES = {f"{n}.png": png(0, n) for n in range(6)}


def csv(*rows: str, head: str = "image,label,split") -> bytes:
    return "\n".join([head, *rows, ""]).encode()


def json_lines(**columns: list[Any]) -> bytes:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return "\n".join(json.dumps({key: value for key, value in row.items() if value != ...}) for row in rows).encode()


def parquet(metadata: Any = None, **columns: Any) -> bytes:
    out = io.BytesIO()
    table = pa.table(columns)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata or {}), out)
    return out.getvalue()


def features(*names: str) -> dict[str, str]:
    label = {"_type": "ClassLabel", "names": names}
    return {"huggingface": json.dumps({"info": {"features": {"label": label}}})}


def rows_of(path: Path, **changes: Any) -> list[tuple[str, str, str]]:
    own = labeled_images.load(path, options(**changes))
    assert own.problems == []
    return sorted(zip(own.rows["source"], own.rows["class_name"], own.rows["split"], strict=True))


EXPECTED = [(f"{n}.png", "ab"[n % 2], "train" if n < 4 else "test") for n in range(6)]
NO_VAL = {"validation_fraction": 0.0}


@pytest.mark.parametrize("content", [BOTH, BOTH.replace(b",train", b", train ").replace(b",b,", b", b\t,")])
def test_cells_are_stripped(content: bytes, tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "s", {"all.csv": content, **FILES}), **NO_VAL) == EXPECTED


def test_one_folder_of_images_may_lie_below_the_table(tmp_path: Path) -> None:
    files = {"all.csv": BOTH.replace(b".png", b""), **{f"pics/{name}": content for name, content in FILES.items()}}
    assert rows_of(write(tmp_path / "s", files), **NO_VAL) == [(f"pics/{name}", *rest) for name, *rest in EXPECTED]


@pytest.mark.parametrize("name", ["train.csv", "none"])
def test_the_table_is_a_param(name: str, tmp_path: Path) -> None:
    files = {f"{label}/{n}.png": png(n, 7) for n, label in enumerate("ab" * 3)}
    rows = csv(*(f"{each},{each[0].upper()}," for each in files))
    path = write(tmp_path / "s", {**files, "train.csv": rows, "sample_submission.csv": b"id,label\n"})
    assert (
        "has several tables: sample_submission.csv, train.csv; remove others, or name one: annotate.table"
        in refusal(path)
    )
    classes = {row[1] for row in rows_of(path, table=name)}
    assert classes == ({"A", "B"} if name == "train.csv" else {"a", "b"})


@pytest.mark.parametrize("head", ["pixel{}", "V{}"])
def test_pixel_columns_are_in_the_order_of_their_numbers(head: str, tmp_path: Path) -> None:
    order = sorted(range(16), key=str)  # 0, 1, 10, 11, ..., 2
    names = ["label", "split", *(head.format(number) for number in order)]
    rows = [f"{'ab'[n % 2]},{'train' if n < 4 else 'test'},{','.join(str(n + p) for p in order)}" for n in range(6)]
    path = write(tmp_path, {"t.csv": csv(*rows, head=",".join(names))}) / "t.csv"
    own = labeled_images.load(path, options())
    first = own.collection.read(own.rows["source"][0])
    assert isinstance(first, np.ndarray)
    assert first.ravel().tolist() == list(range(16))


def test_integers_with_a_missing_value_stay_integers(tmp_path: Path) -> None:
    names, labels = [f"{n}.png" for n in range(6)], [0, 1, 0, 1, 0, None]
    for table in (
        {"t.parquet": parquet(image=names, label=labels)},
        {"t.jsonl": json_lines(image=names, label=labels)},
    ):
        problems: list[str] = []
        own = labeled_images.load(write(tmp_path / next(iter(table)), {**table, **FILES}), options(), problems)
        assert own.class_names == ["0", "1"]
        assert problems[0].endswith("row 6: label is empty")


def test_pixels_may_be_a_text_of_numbers(tmp_path: Path) -> None:
    """FER2013 has them like that."""
    rows = [
        f"{n % 2},{' '.join(str(p) for row in CELLS[n] for p in row)},{'train' if n < 4 else 'test'}" for n in range(6)
    ]
    path = write(tmp_path, {"t.csv": csv(*rows, head="emotion,pixels,split")}) / "t.csv"
    assert "annotate.label_column; it has emotion, pixels, split" in refusal(path)
    own = labeled_images.load(path, options(label_column="emotion"))
    assert np.array_equal(own.collection.read(own.rows["source"][0]), np.reshape(CELLS[0], (4, 4)))


PNG = png(0, 0)
EIGHT = [PNG] * 5
REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "file of another folder": (
        {"all.csv": csv("train/3.png,a,"), "test/3.png": PNG, "train/1.png": PNG},
        "row 2: image 'train/3.png': there is no such file",
    ),
    "last name": ({"all.csv": csv("3.png,a,"), "x/3.png": PNG, "y/4.png": PNG}, "row 2: image '3.png': there is no"),
    "holdout": ({"all.csv": csv("0.png,a,train", "1.png,b,holdout"), **FILES}, "'holdout' is no split"),
    "0 and 1": ({"all.csv": csv("0.png,a,0", "1.png,b,1"), **FILES}, "'0', '1' is no split"),
    "list": ({"t.jsonl": json_lines(image=["0.png"], label=[["a"]]), **FILES}, "row 1: the label is a list"),
    "object": ({"t.jsonl": json_lines(image=["0.png"], label=[{"a": 1}]), **FILES}, "row 1: the label is a dict"),
    "bytes as label": ({"t.parquet": parquet(image=["0.png"], label=[PNG]), **FILES}, "row 1: the label is bytes"),
    "two labels": ({"all.csv": csv("0.png,a,b", head="image,label,class"), **FILES}, "annotate.label_column"),
    "one name twice": (
        {"all.csv": csv("0.png,a,b", head="image,label,label"), **FILES},
        "'label' names several columns",
    ),
    "outside": (
        {"t.parquet": parquet(features("a", "b"), image=EIGHT, label=[0, 1, 2, -2, 0])},
        "the label 2 is none of the 2 class names",
    ),
    "names of classes": (
        {"t.parquet": parquet(features("a", "b"), image=EIGHT, label=[*"ababa"])},
        "the label 'a' is none of the 2 class names",
    ),
    "no JSON": (
        {"t.parquet": parquet({"huggingface": "{"}, image=EIGHT, label=[*"ababa"])},
        "the Hugging Face metadata are not JSON of a schema",
    ),
    "no schema": (
        {"t.parquet": parquet({"huggingface": "[]"}, image=EIGHT, label=[*"ababa"])},
        "the Hugging Face metadata are not JSON of a schema",
    ),
    "list of bytes": ({"t.parquet": parquet(image=[[PNG]] * 2, label=[*"ab"])}, "row 1: holds neither"),
    "null image": ({"t.parquet": parquet(image=[None, *EIGHT], label=[*"ababab"])}, "row 1: image is empty"),
    "control": ({"t.jsonl": json_lines(image=["0.png"], label=["a\u0007b"]), **FILES}, r"row 1: the label 'a\x07b'"),
    "floats": (
        {"t.parquet": parquet(image=[(np.array(each) / 255).tolist() for each in CELLS], label=[*"ababab"])},
        "row 1: pixels must be whole numbers from 0 to 255",
    ),
    "float columns": (
        {"t.parquet": parquet(**{f"pixel{n}": [0.5, 0.1] for n in range(16)}, label=[*"ab"])},
        "pixels must be whole numbers from 0 to 255",
    ),
    "too many cells": (
        {"all.csv": csv("0.png,a,train,x", "1.png,a,train,x"), **FILES},
        "Length of header or names does not match",
    ),
    "no header": ({"all.csv": csv("1.png,a", head="0.png,a"), **FILES}, "its first row must name them"),
    "two kinds": (
        {"train.csv": BOTH, "test.parquet": parquet(image=EIGHT, label=[*"ababa"]), **FILES},
        "has several tables",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, tmp_path: Path) -> None:
    files, says = REFUSED[case]
    said = refusal(write(tmp_path / "s", files))
    assert says in said
    assert "PNG" not in said


def test_errors_of_a_table_without_pixels_do_not_speak_of_pixels(tmp_path: Path) -> None:
    said = refusal(write(tmp_path / "s", {"all.csv": b'image,label\n"0.png,a\n', **FILES}))
    assert "pixel" not in said


def test_first_row_in_the_place_of_the_names_is_shortened(tmp_path: Path) -> None:
    rows = ",".join(["70 80 " * 500, "3", "Training"])
    says = refusal(write(tmp_path / "s", {"all.csv": csv(rows, rows, head=rows)}))
    assert "its first row must name them" in says
    assert "…" in says
