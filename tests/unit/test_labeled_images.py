"""A person's own images: the forms that they come in, what is odd in them, and how they are split."""

import io
import itertools
import tarfile
from pathlib import Path
from typing import Any

from classifier.prepare import labeled_images
from tests.support import idx_files, own
from tests.support.labeled import CLASSES, PETS, SAMPLES, as_zip, by_class, csv, load, pixels_of, png, write
from tests.unit.image_tables import class_names, json_lines, parquet

import numpy as np
import pandas as pd
import pytest
from PIL import Image


def put(path: Path, files: dict[str, bytes]) -> Path:
    """A folder, or an archive by its suffix."""
    if path.suffix == ".zip":
        return as_zip(path, files)
    if ".tar" not in path.name:
        return write(path, files)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def table(delimiter: str, columns: tuple[str, str, str], end: str = "\n", suffix: str = ".png") -> bytes:
    rows = [(f"{label}-{number}{suffix}", CLASSES[label], split) for label, number, split in SAMPLES]
    return "".join(delimiter.join(row) + end for row in (columns, *rows)).encode()


def images(folder: str = "", only: str | None = None) -> dict[str, bytes]:
    """The files of all samples, or of one split."""
    chosen = [(label, number) for label, number, split in SAMPLES if only in (None, split)]
    return {f"{folder}{label}-{number}.png": png(label, number) for label, number in chosen}


COLUMNS = {"label": [CLASSES[label] for label, _, _ in SAMPLES], "split": [split for _, _, split in SAMPLES]}


def hugging_face() -> dict[str, bytes]:
    files = {}
    for split in ("train", "val", "test"):
        labels = [label for label, _, of in SAMPLES if of == split]
        cells = [{"bytes": content, "path": None} for content in images(only=split).values()]
        table = parquet(class_names(*CLASSES), image=cells, label=labels)
        files[f"data/{split}-00000-of-00001.parquet"] = table
    return files


def kaggle() -> bytes:
    pixels = pd.DataFrame([pixels_of(label, number).ravel() for label, number, _ in SAMPLES]).add_prefix("pixel")
    return pd.DataFrame(COLUMNS).join(pixels).to_csv(index=False).encode()


def imagefolder() -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for folder, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = [f"{label}-{number}.png,{CLASSES[label]}" for label, number, of in SAMPLES if of == split]
        files |= {f"{folder}/metadata.csv": csv(*rows, head="file_name,label"), **images(f"{folder}/", split)}
    return files


CSV = table(",", ("image", "label", "split"))
WITH_BLANKS = CSV.replace(b",cat,", b", cat\t,").replace(b",train", b", train ")
WINDOWS = b"\xef\xbb\xbf" + table(";", ("File Name", "Class", "Set"), "\r\n")
WITHOUT_SUFFIXES = table("\t", ("id", "breed", "subset"), suffix="")
FORMS: dict[str, tuple[str, dict[str, bytes]]] = {
    "folders of classes in splits": ("pets", by_class("{split}/{name}/{number}.PNG")),
    "folders of splits in classes": ("pets", by_class("{name}/{split}/{number}.png")),
    "nested": ("pets", by_class("{split}/{name}/old/{number}/a.png")),
    "zip": ("pets.zip", by_class("{split}/{name}/{number}.png")),
    "zip with a folder": ("pets.zip", by_class("my pets/{split}/{name}/{number}.png")),
    "tar": ("pets.tar", by_class("{split}/{name}/{number}.png")),
    "tar.gz": ("pets.tar.gz", by_class("{split}/{name}/{number}.png")),
    "csv": ("pets", {"all.csv": CSV, **images()}),
    "csv with blanks in cells": ("pets", {"all.csv": WITH_BLANKS, **images()}),
    "csv of Windows": ("pets", {"all.csv": WINDOWS, **images("pics/")}),
    "tsv without suffixes": ("pets", {"all.tsv": WITHOUT_SUFFIXES, **images("pics/")}),
    "json lines": ("pets", {"all.jsonl": json_lines(image=[*images()], **COLUMNS), **images()}),
    "parquet": ("pets", hugging_face()),
    "imagefolder": ("pets", imagefolder()),
    "imagefolder in a zip": ("pets.zip", imagefolder()),
    "table of pixels": (".", {"pets.csv": kaggle()}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(form: str, tmp_path: Path) -> None:
    name, files = FORMS[form]
    path = put(tmp_path / name, files)
    found = load(path / "pets.csv" if form == "table of pixels" else path)
    assert found.class_names == ["12 犬", "Straße 1", "cat"]
    assert (found.preprocessing.channels, found.preprocessing.height, found.preprocessing.width) == (1, 20, 20)
    assert [found.class_names[label] for label in found.rows["label"]] == [*found.rows["class_name"]]
    decoded = [np.asarray(pixels).tobytes() for pixels in found.decode()]
    rows = zip(decoded, found.rows["class_name"], found.rows["split"], strict=True)
    expected = [(pixels_of(label, number).tobytes(), CLASSES[label], split) for label, number, split in SAMPLES]
    assert sorted(rows) == sorted(expected)
    assert found.rows["image"].is_unique


@pytest.mark.parametrize(
    "patterns",
    [
        ("training_set/{c}/{n}.png", "test_set/{c}/{n}.png"),
        ("train2017/{c}/{n}.png", "test2017/{c}/{n}.png"),
        ("seg_train/seg_train/{c}/{n}.png", "seg_test/seg_test/{c}/{n}.png"),
        ("1_train/{c}/{n}.png", "2_test/{c}/{n}.png"),
        ("x/x/{c}/{n}.png", "x/x/{c}/t{n}.png"),
        ("images/{c}/{n}.png", "images/{c}/t{n}.png"),
        ("{c}/train/{n}.png", "{c}/test/{n}.png"),
    ],
)
def test_layout_is_recognized(patterns: tuple[str, str], tmp_path: Path) -> None:
    files = {patterns[n > 3].format(c=c, n=n): png(c == "dog", n) for c in ("cat", "dog") for n in range(6)}
    beside = {"README.md": b"", "dataset_info.json": b'{"name": "Pets", "license": "MIT"}'}
    found = load(write(tmp_path / "s", {**files, **beside}))
    assert found.class_names == ["cat", "dog"]
    assert found.collection.info["name"] == "Pets"
    if "test" in patterns[1]:
        tests = found.rows[found.rows["split"] == "test"]["source"]
        assert sorted(tests) == sorted(name for name in files if "test" in name)


def test_idx_files_of_ones_own(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        chosen = [(label, number) for label, number, split in SAMPLES if (split == "test") == (part == "t10k")]
        idx_files.write(tmp_path / f"{part}-images-idx3-ubyte", np.stack([pixels_of(*each) for each in chosen]))
        idx_files.write(tmp_path / f"{part}-labels-idx1-ubyte", np.array([label for label, _ in chosen], np.uint8))
    found = load(tmp_path, validation_fraction=0.0)
    assert found.class_names == ["0", "1", "2"]
    assert found.rows["split"].value_counts().to_dict() == {"train": 15, "test": 3}


def test_names_of_classes_sort_as_people_count_and_alike_ones_are_named(tmp_path: Path) -> None:
    names = ("1", "10", "2", "Cat", "cat", "Caf\u00e9", "Cafe\u0301", "dog")
    files = {f"{name}/{i}.png": png(n, i) for n, name in enumerate(names) for i in range(6)}
    found = load(write(tmp_path / "s", files))
    assert found.class_names[:3] == ["1", "2", "10"]
    line = labeled_images.thin_classes(found.rows, found.class_names)[0]
    assert line == "classes whose names differ in case or Unicode form only: Cafe\u0301 and Caf\u00e9, Cat and cat"


def test_classes_with_the_same_folders_get_a_note(tmp_path: Path) -> None:
    found = load(write(tmp_path / "s", {f"{kind}/{name}": PETS[name] for kind in ("color", "gray") for name in PETS}))
    assert "each class has the folders cat, dog; if these are the classes, move them up" in found.collection.notes


def test_images_are_named_png_unless_two_of_a_folder_would_have_one_name(tmp_path: Path) -> None:
    names = ("cat/a.b.jpg", "cat/2.PNG", "dog/1.jpg", "dog/1.png", "dog/1.jpg.jpg")
    found = load(write(tmp_path / "s", {name: png(0, number) for number, name in enumerate(names)}))
    assert dict(zip(found.rows["source"], found.rows["image"], strict=True)) == {
        **{"cat/a.b.jpg": "cat/a.b.png", "cat/2.PNG": "cat/2.png"},
        **{"dog/1.jpg": "dog/1.jpg.png", "dog/1.png": "dog/1.png.png", "dog/1.jpg.jpg": "dog/1.jpg.jpg.png"},
    }


def test_what_systems_leave_behind_is_named_and_left_out(tmp_path: Path) -> None:
    names = ("cat/.DS_Store", "cat/Thumbs.db", "__MACOSX/cat/._0.png", "desktop.ini", "cat/0.png~", ".cow/1.png")
    found = load(as_zip(tmp_path / "pets.zip", {**PETS, **dict.fromkeys((*names, "README.md"), b"x")}))
    says = "left out by name, as in .dvcignore: .cow/, __MACOSX/, cat/.DS_Store, cat/0.png~, cat/Thumbs.db"
    assert says in found.notes[1]


# --- the pixels ---------------------------------------------------------------------------------------------------


def tif(value: float, kind: type) -> bytes:
    return own.encode(Image.fromarray(np.full((20, 20), value, kind)), "TIFF")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("1.pgm", b"P5\n20 20\n65535\n" + bytes([0, 200] * 400), "brightest pixel: 0"),  # 200 of 65,535
        ("1.tif", tif(70000, np.int32), "32 bits a pixel"),
        ("1.tif", tif(np.nan, np.float32), "32 bits a pixel"),
        ("1.jpg", own.encode(Image.fromarray(pixels_of(0, 0)), "JPEG")[:-60], "cat/1.jpg: not a readable image: "),
    ],
)
def test_pixels_have_the_depth_of_the_file_or_the_file_is_named(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    found = load(write(tmp_path / "s", {**PETS, f"cat/{name}": content}), channels=1, size=[20, 20])
    results = dict(zip(found.rows["source"], found.decode(), strict=True))
    result = results.pop(f"cat/{name}")
    assert all(isinstance(other, np.ndarray) for other in results.values())
    assert says in (f"brightest pixel: {result.max()}" if isinstance(result, np.ndarray) else str(result))


@pytest.mark.parametrize(
    ("sizes", "mode", "changes", "expected"),
    [
        ([(30, 20)], "L", {}, (1, 20, 30)),
        ([(300, 150)], "RGB", {}, (3, 32, 64)),
        ([(8, 8)], "L", {}, (1, 16, 16)),
        ([(40, 30), (30, 40), (36, 36)], "L", {}, (1, 36, 36)),
        ([(300, 200), (30, 40)], "L", {"size": [10, 12], "channels": 3}, (3, 10, 12)),
    ],
)
def test_size_and_channels_are_chosen_from_the_images(
    sizes: list[tuple[int, int]], mode: str, changes: dict[str, Any], expected: tuple[int, ...], tmp_path: Path
) -> None:
    files = {}
    for gray, (label, size, copy) in enumerate(itertools.product("ab", sizes, range(3))):
        files[f"{label}/{size[0]}-{copy}.png"] = own.encode(Image.new("L", size, gray).convert(mode), "PNG")
    how = load(write(tmp_path / "s", files), **changes).preprocessing
    assert (how.channels, how.height, how.width) == expected


# --- the splits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 3])
def test_groups_and_copies_stay_in_one_split(copies: int, tmp_path: Path) -> None:
    names = {f"{a}-{b}-{c}.png": (a, b, c) for a, b, _ in SAMPLES for c in range(copies)}
    rows = [f"{name},{CLASSES[a]},patient {b}{c}" for name, (a, b, c) in names.items()]
    files = {name: png(a, b) for name, (a, b, _) in names.items()}
    path = write(tmp_path / "pets", {"all.csv": csv(*rows, head="image,label,patient"), **files})
    grouped, plain = load(path, group_column="patient"), load(path)
    assert set(grouped.rows["split"]) == {"train", "val", "test"}
    assert (grouped.rows.groupby("group")["split"].nunique() == 1).all()
    for found in (grouped, plain):
        assert (found.rows.groupby("content")["split"].nunique() == 1).all()
    note = f"copies of other files: {2 * len(SAMPLES)}; they stay in one drawn split"
    assert (note in plain.notes) == (copies == 3)
