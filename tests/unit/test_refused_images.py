"""What cannot be used of a person's own images: each file, row or archive is named in one line."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from classifier.errors import StageError
from classifier.prepare import labeled_images
from tests.support.labeled import PETS, as_zip, csv, load, options, png, refusal, write
from tests.unit.image_tables import class_names, json_lines, parquet

import pytest

IN_SPLITS = {f"{'test' if n > 3 else 'train'}/{name}": content for n, (name, content) in enumerate(PETS.items())}
IN_SPLITS |= {f"train/{name}": content for name, content in PETS.items()}
COPY = {f"pets/{name}": png(4, 4) for name in PETS}
MASKS = {"images/1.png": png(1, 0), "images/2.png": png(1, 1), "Masks/1.png": png(0, 0)}
PNG = png(3, 1)
FOLDERS: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing": ({}, "has no labeled image: put the images into a folder for each class"),
    "too few": ({"cat/1.png": png(0, 0), "dog/1.png": png(1, 0)}, "no test image: of 2 images in 2 classes none could"),
    "split beside classes": ({**PETS, "test1/1.png": PNG}, "splits (test1) beside others (cat, dog)"),
    "no split beside splits": ({**IN_SPLITS, "seg_pred/1.png": PNG}, "splits (test, train) beside others (seg_pred)"),
    "split without classes": ({**IN_SPLITS, "val/1.png": PNG}, "'val/1.png': in no folder of a class"),
    "loose beside splits": ({**IN_SPLITS, "1.png": PNG}, "'1.png': in no folder of a class"),
    "copy of the set": ({**PETS, **COPY}, "the folder 'cat' is named like a class or split beside it"),
    "split below one class": ({**PETS, "cat/test/1.png": PNG}, "splits (cat/test) beside others (cat/0.png, cat/1.png"),
    "no image in a class": ({**PETS, "cow/notes.txt": b""}, "'cow': a folder of a class without images"),
    "names as classes": ({"train/cat.1.png": PNG, "train/dog.1.png": PNG}, "put the images into a folder for"),
    "masks beside images": (MASKS, "'Masks' beside images is the name of a kind of files, not of a class"),
    "nested archive": ({"data.zip": b"PK"}, "'data.zip': an archive in it; unpack it"),
    "blank at an end": ({**PETS, "cat /1.png": PNG}, "'cat /1.png': a name begins or ends with a blank"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_set_that_cannot_be_used_is_refused(case: str, tmp_path: Path) -> None:
    files, says = FOLDERS[case]
    assert says in refusal(write(tmp_path / "s", files))
    assert says in refusal(as_zip(tmp_path / "s.zip", files))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cat/bad.png", b"", "'cat/bad.png': cannot identify image file"),
        ("cat/bad.jpg", b"hello", "'cat/bad.jpg': cannot identify image file"),
        ("cat/bad.xyz", b"hello", "'cat/bad.xyz': not the name of an image file"),
        ("bad.png", PNG, "'bad.png': in no folder of a class"),
        ("cat/a\nb.png", PNG, r"'cat/a\nb.png': the name has a backslash, a control character"),
    ],
)
def test_file_that_cannot_be_used_is_named_and_the_others_are_there(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    found = labeled_images.load(write(tmp_path / "s", {**PETS, name: content}), options())
    (problem,) = found.problems
    assert says in problem
    assert "\n" not in problem
    assert len(found.rows) == len(PETS)


def test_empty_folders_and_links_are_named(tmp_path: Path) -> None:
    path, empty = write(tmp_path / "s", PETS), "'ant': a folder of a class without images"
    (path / "ant").mkdir()
    assert empty in refusal(path)
    shutil.make_archive(str(tmp_path / "empty"), "tar", path)
    assert empty in refusal(tmp_path / "empty.tar")
    (path / "ant").rmdir()
    splits = write(tmp_path / "t", {f"{split}/{split}/{name}": PNG for split in ("train", "test") for name in PETS})
    (splits / "train/train/ant").mkdir()
    assert refusal(splits) == f"{splits}, 'train/train/ant': a folder of a class without images"
    (path / "cat/loop").symlink_to(path)
    (path / "cat/x.png").symlink_to("nowhere")
    link, missing = labeled_images.load(path, options()).problems
    assert link.endswith("'cat/loop': a link to a folder, which DVC does not follow; copy the folder")
    assert missing.endswith("'cat/x.png': a link to a missing file, which stops `dvc add`; remove it")
    write(path, {"cat/.dvc/config": b""})
    assert "cat: is a DVC repository, whose files `dvc add` leaves out" in refusal(path)


def test_bomb_is_named(tmp_path: Path) -> None:
    path, says = write(tmp_path / "pets", PETS), "20 x 20 pixels are too many; at most 0.0003 megapixels are read"
    assert says in refusal(path, max_megapixels=0.0003)
    how = load(path, max_megapixels=0.0004).preprocessing
    assert how(PNG, "x").shape == (1, 20, 20)
    with pytest.raises(StageError, match=says.replace(".", r"\.")):
        replace(how, max_megapixels=0.0003)(PNG, "x")


def test_archive_that_cannot_be_unpacked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pets.zip"
    for outside in ("../cat/1.png", "/cat/2.png"):
        said = refusal(as_zip(path, {**PETS, outside: PNG}))
        assert f"{outside!r}: the name leaves the folder; unpack the archive yourself" in said
    content = as_zip(path, PETS).read_bytes()
    entry = content.index(b"PK\x01\x02")
    path.write_bytes(content[: entry + 8] + bytes([content[entry + 8] | 1]) + content[entry + 9 :])  # encryption's bit
    assert "is encrypted, password required" in refusal(path)
    path.write_bytes(content.replace(b"cat/", b"cat\\"))
    said = refusal(path)
    assert "has a backslash" in said
    assert "no labels" not in said
    shutil.make_archive(str(tmp_path / "pets"), "gztar", write(tmp_path / "s", PETS))
    tar = tmp_path / "pets.tar.gz"
    tar.write_bytes(tar.read_bytes()[:-200])
    assert "pets.tar.gz: not a readable archive" in refusal(tar)
    monkeypatch.setattr("classifier.prepare.file_tree.SMALL_BYTES", 0)
    assert "pets.zip: unpacks to 200 times its size or more" in refusal(as_zip(path, {"cat/1.png": bytes(1 << 20)}))


# --- tables -------------------------------------------------------------------------------------------------------


def hugging_face(metadata: str, labels: list[Any]) -> dict[str, bytes]:
    return {"t.parquet": parquet(metadata, image=[PNG] * len(labels), label=labels)}


CELLS = [[[(number * 9 + value) / 255 for value in range(4)]] * 4 for number in range(6)]  # 6 images of 4x4
FLOAT_COLUMNS = {f"pixel{number}": [0.5, 0.1] for number in range(16)}
NOT_WHOLE = "pixels must be whole numbers from 0 to 255"
TWO = {"test/3.png": PNG, "train/1.png": PNG}
LONG = ",".join(["70 80 " * 500, "3", "Training"])
TABLES: dict[str, tuple[dict[str, bytes], str]] = {
    "other folder": ({"all.csv": csv("train/3.png,a,"), **TWO}, "row 2: image 'train/3.png': there is no such file"),
    "last name": ({"all.csv": csv("3.png,a,"), "x/3.png": PNG, "y/4.png": PNG}, "row 2: image '3.png': there is no"),
    "one class": ({"all.csv": csv("1.png,cat,")}, "has one class only, 'cat'"),
    "holdout": ({"all.csv": csv("0.png,a,train", "1.png,b,holdout")}, "'holdout' is no split"),
    "0 and 1": ({"all.csv": csv("0.png,a,0", "1.png,b,1")}, "'0', '1' is no split"),
    "list": ({"t.jsonl": json_lines(image=["0.png"], label=[["a"]])}, "row 1: the label is a list"),
    "object": ({"t.jsonl": json_lines(image=["0.png"], label=[{"a": 1}])}, "row 1: the label is a dict"),
    "bytes as label": ({"t.parquet": parquet(image=["0.png"], label=[PNG])}, "row 1: the label is bytes"),
    "two labels": ({"all.csv": csv("0.png,a,b", head="image,label,class")}, "annotate.label_column"),
    "one name twice": ({"all.csv": csv("0.png,a,b", head="image,label,label")}, "'label' names several columns"),
    "outside": (hugging_face(class_names("a", "b"), [0, 1, 2, -2, 0]), "the label 2 is none of the 2 class names"),
    "names of classes": (hugging_face(class_names("a", "b"), [*"ababa"]), "the label 'a' is none of the 2 class names"),
    "no JSON": (hugging_face("{", [*"ababa"]), "the Hugging Face metadata are not JSON of a schema"),
    "no schema": (hugging_face("[]", [*"ababa"]), "the Hugging Face metadata are not JSON of a schema"),
    "list of bytes": ({"t.parquet": parquet(image=[[PNG]] * 2, label=[*"ab"])}, "row 1: holds neither"),
    "null image": ({"t.parquet": parquet(image=[None, *[PNG] * 5], label=[*"ababab"])}, "row 1: image is empty"),
    "control": ({"t.jsonl": json_lines(image=["0.png"], label=["a\u0007b"])}, r"row 1: the label 'a\x07b'"),
    "floats": ({"t.parquet": parquet(image=CELLS, label=[*"ababab"])}, f"row 1: {NOT_WHOLE}"),
    "float columns": ({"t.parquet": parquet(**FLOAT_COLUMNS, label=[*"ab"])}, NOT_WHOLE),
    "too many cells": ({"all.csv": csv("0.png,a,train,x", "1.png,a,train,x")}, "Length of header or names does not"),
    "no header": ({"all.csv": csv("1.png,a", head="0.png,a")}, "its first row must name them"),
    "no header, long": ({"all.csv": csv(LONG, LONG, head=LONG)}, "its first row must name them"),
    "two kinds": ({"train.csv": csv("0.png,a,"), **hugging_face("{}", [*"ababa"])}, "has several tables"),
    "open quote": ({"all.csv": b'image,label\n"0.png,a\n'}, "EOF inside string"),
}
LOOSE = {f"{n}.png": png(0, n) for n in range(6)}


@pytest.mark.parametrize("case", TABLES)
def test_table_that_cannot_be_used_is_refused(case: str, tmp_path: Path) -> None:
    files, says = TABLES[case]
    beside = {} if any("/" in name for name in files) else LOOSE
    said = refusal(write(tmp_path / "s", {**files, **beside}))
    assert says in said
    assert "PNG" not in said
    assert case != "open quote" or "pixel" not in said
    assert ("…" in said) == (case == "no header, long")


@pytest.mark.parametrize("kind", ["t.parquet", "t.jsonl"])
def test_integers_with_a_missing_value_stay_integers(kind: str, tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"image": [f"{n}.png" for n in range(6)], "label": [0, 1, 0, 1, 0, None]}
    content = (parquet if kind == "t.parquet" else json_lines)(**columns)
    found = labeled_images.load(write(tmp_path / "s", {kind: content, **LOOSE}), options())
    assert found.class_names == ["0", "1"]
    assert found.problems[0].endswith("row 6: label is empty")


def test_rows_and_images_that_do_not_fit_are_named_with_their_rows(tmp_path: Path) -> None:
    names = [f"{number}.png,{label}" for label in ("cat", "dog") for number in range(3 * (label == "dog"), 6)]
    rows = csv(*names[:6], "", "0.png,cat", "missing.png,cat", "1.png,", head="image,label")
    said = refusal(write(tmp_path / "s", {"all.csv": rows, **LOOSE, "extra.png": png(0, 9)}))
    assert "rows 2, 9 are all of the image '0.png'" in said
    assert "row 10: image 'missing.png': there is no such file" in said
    assert "row 11: label is empty" in said
    assert "no row of a table names extra.png" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_column": "picture"}, "has no column 'picture', which annotate.image_column names; it has image, x"),
        ({}, "name the column of the labels: annotate.label_column; it has image, x, z"),
        ({"label_column": "x", "split_column": "z"}, "'7' is no split; the splits are train, val and test"),
    ],
)
def test_columns_that_are_not_plain_are_asked_for(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "s", {"all.csv": csv("0.png,a,7", "1.png,b,7", head="image,x,z"), **LOOSE})
    assert says in refusal(path, **change)
