"""A person's own images: the forms that they come in, what is odd in them, and how they are split."""

import csv
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from classifier import ROOT
from classifier.config import params_file
from classifier.config.schema import Annotate
from classifier.errors import StageError
from classifier.prepare import labeled_images
from tests.support import idx_files
from tools import check_images

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

CLASSES = ("cat", "Straße 1", "12 犬")
EACH = 6  # images of a class
OPTIONS: dict[str, Any] = {
    "validation_fraction": 0.2, "validation_fold": 0, "seed": 0, "test_fraction": 0.2, "table": "auto",
    "image_column": "auto", "label_column": "auto",
    "split_column": "auto", "group_column": "none", "channels": "auto", "size": "auto", "fit": "pad",
    "background": "black", "max_megapixels": 250, "bad_files": "stop",
}  # fmt: skip


def options(**changes: Any) -> Annotate:
    return Annotate(**{**OPTIONS, **changes})


def refusal(path: Path, **changes: Any) -> str:
    """All that is said about a set that cannot be used as it is, each in one line."""
    problems: list[str] = []
    try:
        labeled_images.load(path, options(**changes), problems)
    except StageError as error:
        problems.append(str(error))
    assert problems
    lines = [line.replace(str(path), "SET") for line in problems]  # the folder of a test has a name of any length
    assert not any("\n" in line or "(unexpected)" in line or len(line) > 400 for line in lines)
    return "\n".join(problems)


def pixels_of(label: int, number: int) -> np.ndarray:
    return np.random.default_rng([label, number]).integers(0, 256, (20, 20), np.uint8)


def png(label: int, number: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels_of(label, number)).save(content, "PNG")
    return content.getvalue()


def samples() -> list[tuple[int, int, str]]:
    """Label, number and split of all images."""
    splits = ["train"] * 4 + ["val", "test"]
    return [(label, number, splits[number]) for label in range(len(CLASSES)) for number in range(EACH)]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def by_class(pattern: str) -> dict[str, bytes]:
    return {
        pattern.format(split=split, name=CLASSES[label], number=number): png(label, number)
        for label, number, split in samples()
    }


def as_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def as_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def table(delimiter: str, columns: tuple[str, str, str], end: str = "\n", name: str = "{label}-{number}.png") -> bytes:
    out = io.StringIO()
    rows = csv.writer(out, delimiter=delimiter, lineterminator=end)
    rows.writerow(columns)
    for label, number, split in samples():
        rows.writerow([name.format(label=label, number=number), CLASSES[label], split])
    return out.getvalue().encode()


def images(folder: str = "") -> dict[str, bytes]:
    return {f"{folder}{label}-{number}.png": png(label, number) for label, number, _ in samples()}


def json_lines() -> bytes:
    rows = [{"image": f"{a}-{b}.png", "label": CLASSES[a], "split": split} for a, b, split in samples()]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def hugging_face(split: str) -> bytes:
    chosen = [(label, number) for label, number, of in samples() if of == split]
    cells = [{"bytes": png(*each), "path": None} for each in chosen]
    data = pa.table({"image": cells, "label": [label for label, _ in chosen]})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    data = data.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    out = io.BytesIO()
    pyarrow.parquet.write_table(data, out)
    return out.getvalue()


def kaggle() -> bytes:
    frame = pd.DataFrame([pixels_of(*each[:2]).ravel() for each in samples()])
    frame.columns = [f"pixel{number}" for number in frame]
    frame.insert(0, "label", [CLASSES[label] for label, _, _ in samples()])
    frame["split"] = [split for _, _, split in samples()]
    return frame.to_csv(index=False).encode()


def imagefolder() -> dict[str, bytes]:
    files = {}
    for split in ("train", "validation", "test"):
        chosen = [each for each in samples() if each[2] == split[:5].removesuffix("id")]
        rows = "".join(f"{label}-{number}.png,{CLASSES[label]}\n" for label, number, _ in chosen)
        files[f"{split}/metadata.csv"] = f"file_name,label\n{rows}".encode()
        files |= {f"{split}/{label}-{number}.png": png(label, number) for label, number, _ in chosen}
    return files


INFO = b'{"name": "Pets", "license": "MIT"}'
FORMS: dict[str, Callable[[Path], Path]] = {
    "folders of classes in splits": lambda to: write(to / "pets", by_class("{split}/{name}/{number}.PNG")),
    "folders of splits in classes": lambda to: write(to / "pets", by_class("{name}/{split}/{number}.png")),
    "nested": lambda to: write(to / "pets", by_class("{split}/{name}/old/{number}/a.png")),
    "zip": lambda to: as_zip(to / "pets.zip", by_class("{split}/{name}/{number}.png")),
    "zip with a folder": lambda to: as_zip(to / "pets.zip", by_class("my pets/{split}/{name}/{number}.png")),
    "tar": lambda to: as_tar(to / "pets.tar", by_class("{split}/{name}/{number}.png")),
    "tar.gz": lambda to: as_tar(to / "pets.tar.gz", by_class("{split}/{name}/{number}.png")),
    "csv": lambda to: write(to / "pets", {"all.csv": table(",", ("image", "label", "split")), **images()}),
    "csv of Windows": lambda to: write(
        to / "pets", {"all.csv": b"\xef\xbb\xbf" + table(";", ("File Name", "Class", "Set"), "\r\n"), **images("pics/")}
    ),
    "tsv without suffixes": lambda to: write(
        to / "pets", {"all.tsv": table("\t", ("id", "breed", "subset"), name="{label}-{number}"), **images("pics/")}
    ),
    "json lines": lambda to: write(to / "pets", {"all.jsonl": json_lines(), **images()}),
    "parquet": lambda to: write(
        to / "pets", {f"data/{split}-00000-of-00001.parquet": hugging_face(split) for split in ("train", "val", "test")}
    ),
    "imagefolder": lambda to: write(to / "pets", imagefolder()),
    "imagefolder in a zip": lambda to: as_zip(to / "pets.zip", imagefolder()),
    "table of pixels": lambda to: write(to, {"pets.csv": kaggle()}) / "pets.csv",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(form: str, tmp_path: Path) -> None:
    own = labeled_images.load(FORMS[form](tmp_path), options())
    assert own.problems == []
    assert own.class_names == ["12 犬", "Straße 1", "cat"]
    assert (own.preprocessing.channels, own.preprocessing.height, own.preprocessing.width) == (1, 20, 20)
    expected = {pixels_of(label, number).tobytes(): (CLASSES[label], split) for label, number, split in samples()}
    found = {}
    for place, pixels in own.decode():
        assert isinstance(pixels, np.ndarray)
        row = own.rows.iloc[place]
        assert own.class_names[row["label"]] == row["class_name"]
        found[pixels.tobytes()] = row["class_name"], row["split"]
    assert found == expected
    assert own.rows["image"].is_unique


LAYOUTS = {
    "training_set": ("training_set/{c}/{n}.png", "test_set/{c}/{n}.png"),
    "train2017": ("train2017/{c}/{n}.png", "test2017/{c}/{n}.png"),
    "Intel's": ("seg_train/seg_train/{c}/{n}.png", "seg_test/seg_test/{c}/{n}.png"),
    "1_train": ("1_train/{c}/{n}.png", "2_test/{c}/{n}.png"),
    "doubled": ("x/x/{c}/{n}.png", "x/x/{c}/t{n}.png"),
    "images and a README": ("images/{c}/{n}.png", "images/{c}/t{n}.png"),
    "split below the class": ("{c}/train/{n}.png", "{c}/test/{n}.png"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layout_is_recognized(case: str, tmp_path: Path) -> None:
    patterns = LAYOUTS[case]
    files = {patterns[n > 3].format(c=c, n=n): png(c == "dog", n) for c in ("cat", "dog") for n in range(6)}
    own = labeled_images.load(write(tmp_path / "s", {**files, "README.md": b"", "dataset_info.json": INFO}), options())
    assert own.problems == []
    assert own.class_names == ["cat", "dog"]
    assert own.collection.info["name"] == "Pets"
    if "test" in patterns[1]:
        tests = own.rows[own.rows["split"] == "test"]["source"]
        assert sorted(tests) == sorted(name for name in files if "test" in name)


PETS = {f"{split}{c}/{n}.png": png(c == "dog", n) for split in ("",) for c in ("cat", "dog") for n in range(6)}
IN_SPLITS = {f"{'test' if n > 3 else 'train'}/{name}": content for n, (name, content) in enumerate(PETS.items())}
IN_SPLITS |= {f"train/{name}": content for name, content in PETS.items()}
REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "split beside classes": ({**PETS, "test1/1.png": png(3, 1)}, "splits (test1) beside others (cat, dog)"),
    "no split beside splits": (
        {**IN_SPLITS, "seg_pred/1.png": png(3, 1)},
        "splits (test, train) beside others (seg_pred)",
    ),
    "split without classes": ({**IN_SPLITS, "val/1.png": png(3, 1)}, "'val/1.png': in no folder of a class"),
    "loose beside splits": ({**IN_SPLITS, "1.png": png(3, 1)}, "'1.png': in no folder of a class"),
    "copy of the set": (
        {**PETS, **{f"pets/{name}": png(4, 4) for name in PETS}},
        "the folder 'cat' is named like a class or split beside it",
    ),
    "split below one class": (
        {**PETS, "cat/test/1.png": png(3, 1)},
        "splits (cat/test) beside others (cat/0.png, cat/1.png",
    ),
    "no image in a class": ({**PETS, "cow/notes.txt": b""}, "'cow': a folder of a class without images"),
    "names as classes": (
        {"train/cat.1.png": png(0, 0), "train/dog.1.png": png(1, 0)},
        "put the images into a folder for",
    ),
    "masks beside images": (
        {"images/1.png": png(1, 0), "images/2.png": png(1, 1), "Masks/1.png": png(0, 0)},
        "'Masks' beside images is the name of a kind of files, not of a class",
    ),
    "nested archive": ({"data.zip": b"PK"}, "'data.zip': an archive in it; unpack it"),
    "blank at an end": ({**PETS, "cat /1.png": png(3, 1)}, "'cat /1.png': a name begins or ends with a blank"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layout_is_refused(case: str, tmp_path: Path) -> None:
    files, says = REFUSED[case]
    assert says in refusal(write(tmp_path / "s", files))
    assert says in refusal(as_zip(tmp_path / "s.zip", files))


def test_classes_with_the_same_folders_get_a_note(tmp_path: Path) -> None:
    files = {
        f"{kind}/{c}/{n}.png": png(c == "dog", n) for kind in ("color", "gray") for c in ("cat", "dog") for n in (0, 1)
    }
    own = labeled_images.load(write(tmp_path / "s", files), options())
    assert "each class has the folders cat, dog; if these are the classes, move them up" in own.collection.notes


def test_empty_hidden_and_dangling_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s", {**PETS, ".cow/1.png": png(2, 0), **{f"cat/.{n}": b"" for n in range(9)}})
    (path / "ant").mkdir()
    assert "'ant': a folder of a class without images" in refusal(path)
    shutil.make_archive(str(tmp_path / "empty"), "tar", path)
    assert "'ant': a folder of a class without images" in refusal(tmp_path / "empty.tar")
    (path / "ant").rmdir()
    splits = write(
        tmp_path / "splits", {f"{split}/{split}/{name}": PETS[name] for split in ("train", "test") for name in PETS}
    )
    (splits / "train/train/ant").mkdir()
    assert refusal(splits) == f"{splits}, 'train/train/ant': a folder of a class without images"
    assert ".cow/, cat/.0" in labeled_images.load(path, options()).notes[1]
    (path / "cat/x.png").symlink_to("nowhere")
    assert "'cat/x.png': a link to a missing file, which stops `dvc add`; remove it" in refusal(path)


def test_members_of_archives_that_cannot_be_used_are_the_reason(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "s.zip", {"cat\\1.png": png(0, 0)})
    path.write_bytes(path.read_bytes().replace(b"cat/", b"cat\\"))
    assert "has a backslash" in refusal(path)
    assert "no labels" not in refusal(path)


def test_groups_and_copies_stay_in_one_split(tmp_path: Path) -> None:
    rows = "".join(f"{a}-{b}-{c}.png,{CLASSES[a]},p{b}{c}\n" for a, b, _ in samples() for c in range(3))
    files = {f"{a}-{b}-{c}.png": png(a, b) for a, b, _ in samples() for c in range(3)}
    path = write(tmp_path / "pets", {"all.csv": f"image,label,patient\n{rows}".encode(), **files})
    own = labeled_images.load(path, options(group_column="patient"))
    assert (own.rows.groupby("content")["split"].nunique() == 1).all()
    assert (own.rows.groupby("group")["split"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("1.pgm", b"P5\n20 20\n65535\n" + bytes([0, 200] * 400), 0),
        ("1.tif", np.full((20, 20), 70000, np.int32), "32 bits a pixel"),
        ("1.tif", np.full((20, 20), np.nan, np.float32), "32 bits a pixel"),
    ],
)
def test_depth_is_that_of_the_file(name: str, content: Any, says: Any, tmp_path: Path) -> None:
    if isinstance(content, np.ndarray):
        out = io.BytesIO()
        Image.fromarray(content).save(out, "TIFF")
        content = out.getvalue()
    path = write(tmp_path / "s", {**PETS, f"cat/{name}": content})
    own = labeled_images.load(path, options(channels=1, size=[20, 20]))
    results = dict(zip(own.rows["source"], (result for _, result in own.decode()), strict=True))
    result = results[f"cat/{name}"]
    if isinstance(says, str):
        assert says in str(result)
    else:
        assert isinstance(result, np.ndarray)
        assert result.max() == says  # 200 of 65,535


@pytest.mark.parametrize(("name", "line"), [("007", 'dataset: "007"'), ("my pets", "dataset: my pets")])
def test_lines_for_params_can_be_pasted(name: str, line: str, tmp_path: Path) -> None:
    own = labeled_images.load(write(tmp_path / name, PETS), options())
    said = check_images.lines_for_params(tmp_path / name, own, 0, params_file.read(Path(ROOT, "params.yaml"))[0].train)
    assert f"  {line}\n" in said
    assert "link" not in said


def test_copies_in_several_classes_get_a_note(tmp_path: Path) -> None:
    own = labeled_images.load(write(tmp_path / "clean", PETS), options())
    assert check_images.contradictions(own.rows) == []
    own = labeled_images.load(write(tmp_path / "pets", {**PETS, "dog/9.png": PETS["cat/1.png"]}), options())
    assert check_images.contradictions(own.rows) == ["2 copies are in several classes, such as cat/1.png, dog/9.png"]


def test_black_icons_on_black_get_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def icon(shown: int, alpha: int) -> bytes:
        content, image = io.BytesIO(), Image.new("LA", (20, 16), (0, alpha))
        image.paste((shown, 255), (4, 4, 12, 12))
        image.save(content, "PNG")
        return content.getvalue()

    icons = {"cat/black.png": icon(30, 0), "dog/opaque.png": icon(0, 255), "dog/gray.png": icon(99, 0)}
    check_images.main([str(write(tmp_path / "s", {**PETS, **icons}))])
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "background" in line]
    says = "1 of 15 images cannot be seen on black, such as cat/black.png; set annotate.background: white"
    assert note == f"note: {says}"


def test_long_names_leave_the_table_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "s", {**PETS, **{f"{'n' * 200}/{number}.png": png(2, number) for number in range(6)}})
    check_images.main([str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert f"{'n' * 40}…{'n' * 40}" in "\n".join(lines)
    assert max(map(len, lines)) < 200


def test_idx_files_of_ones_own(tmp_path: Path) -> None:
    for part, split in (("train", "train"), ("t10k", "test")):
        chosen = [each for each in samples() if (each[2] == "test") == (split == "test")]
        idx_files.write(tmp_path / f"{part}-images-idx3-ubyte", np.stack([pixels_of(*each[:2]) for each in chosen]))
        idx_files.write(tmp_path / f"{part}-labels-idx1-ubyte", np.array([each[0] for each in chosen], np.uint8))
    own = labeled_images.load(tmp_path, options(validation_fraction=0.0))
    assert own.class_names == ["0", "1", "2"]
    assert own.rows["split"].value_counts().to_dict() == {"train": 15, "test": 3}


def test_splits_are_drawn_by_class_and_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", by_class("{name}/{number}.png"))
    drawn = [labeled_images.load(path, options(seed=seed)).rows for seed in (0, 0, 1)]
    assert drawn[0].equals(drawn[1])
    assert not drawn[0].equals(drawn[2])
    assert (pd.crosstab(drawn[0]["class_name"], drawn[0]["split"]) > 0).all(axis=None)


def test_no_group_gets_into_two_splits(tmp_path: Path) -> None:
    rows = "".join(f"{a}-{b}.png,{CLASSES[a]},patient {(3 * a + b) % 9}\n" for a, b, _ in samples())
    path = write(tmp_path / "pets", {"all.csv": f"image,label,patient\n{rows}".encode(), **images()})
    own = labeled_images.load(path, options(group_column="patient"))
    assert set(own.rows["split"]) == {"train", "val", "test"}
    assert (own.rows.groupby("group")["split"].nunique() == 1).all()


def test_copies_stay_in_one_drawn_split(tmp_path: Path) -> None:
    files = by_class("{name}/{number}.png")
    path = write(
        tmp_path / "pets", {**files, **{f"{name.replace('/', '/copy-')}": each for name, each in files.items()}}
    )
    own = labeled_images.load(path, options())
    assert f"{len(files)} copies of other files; they stay in one drawn split" in own.notes
    assert (own.rows.groupby("content")["split"].nunique() == 1).all()


def test_classes_that_only_case_or_unicode_form_tells_apart_are_named(tmp_path: Path) -> None:
    names = ("Cat", "cat", "Caf\u00e9", "Cafe\u0301", "dog")
    path = write(tmp_path / "pets", {f"{name}/{i}.png": png(n, i) for n, name in enumerate(names) for i in range(6)})
    own = labeled_images.load(path, options())
    line = labeled_images.thin_classes(own.rows, own.class_names)[0]
    assert line == "classes whose names differ in case or Unicode form only: Cafe\u0301 and Caf\u00e9, Cat and cat"


def test_names_of_classes_sort_as_people_count(tmp_path: Path) -> None:
    path = write(tmp_path / "n", {f"{n}/{i}.png": png(n, i) for n in (1, 10, 2) for i in range(3)})
    assert labeled_images.load(path, options()).class_names == ["1", "2", "10"]


def test_images_are_named_png_unless_two_of_a_folder_would_have_one_name(tmp_path: Path) -> None:
    names = ("cat/a.b.jpg", "cat/2.PNG", "dog/1.jpg", "dog/1.png", "dog/1.jpg.jpg")
    files = {name: png(0, number) for number, name in enumerate(names)}
    own = labeled_images.load(write(tmp_path / "s", files), options())
    assert dict(zip(own.rows["source"], own.rows["image"], strict=True)) == {
        **{"cat/a.b.jpg": "cat/a.b.png", "cat/2.PNG": "cat/2.png"},
        **{"dog/1.jpg": "dog/1.jpg.png", "dog/1.png": "dog/1.png.png", "dog/1.jpg.jpg": "dog/1.jpg.jpg.png"},
    }


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "empty file": ({"cat/bad.png": b""}, "'cat/bad.png': cannot identify image file"),
    "text": ({"cat/bad.jpg": b"hello"}, "'cat/bad.jpg': cannot identify image file"),
    "other file": ({"cat/bad.xyz": b"hello"}, "'cat/bad.xyz': not the name of an image file"),
    "no class": ({"bad.png": png(0, 0)}, "'bad.png': in no folder of a class"),
    "odd name": ({"cat/a\nb.png": png(0, 0)}, r"'cat/a\nb.png': the name has a backslash, a control character"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_file_is_named_in_one_line(case: str, tmp_path: Path) -> None:
    files, says = BAD[case]
    own = labeled_images.load(write(tmp_path / "pets", {**by_class("{name}/{number}.png"), **files}), options())
    (problem,) = own.problems
    assert says in problem
    assert "\n" not in problem
    assert len(own.rows) == len(samples())


def test_what_systems_leave_behind_is_named_and_left_out(tmp_path: Path) -> None:
    left = {
        "cat/.DS_Store": b"x",
        "cat/Thumbs.db": b"x",
        "__MACOSX/cat/._0.png": b"x",
        "desktop.ini": b"x",
        "cat/0.png~": b"x",
        "README.md": b"",
    }
    own = labeled_images.load(as_zip(tmp_path / "pets.zip", {**by_class("{name}/{number}.png"), **left}), options())
    assert own.problems == []
    assert "left out by name, as in .dvcignore: __MACOSX/, cat/.DS_Store, cat/0.png~, cat/Thumbs.db" in own.notes[1]


def test_truncated_image_is_found_when_it_is_decoded(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    Image.fromarray(pixels_of(0, 0)).save(jpeg, "JPEG")
    path = write(tmp_path / "pets", {**by_class("{name}/{number}.png"), "cat/bad.jpg": jpeg.getvalue()[:-60]})
    own = labeled_images.load(path, options())
    (error,) = [str(result) for _, result in own.decode() if isinstance(result, StageError)]
    assert error.startswith("cat/bad.jpg: not a readable image: ")


def test_bomb_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", by_class("{name}/{number}.png"))
    with pytest.raises(StageError, match=r"20 x 20 pixels are too many; at most 0\.0003 megapixels are read"):
        labeled_images.load(path, options(max_megapixels=0.0003))
    how = labeled_images.load(path, options(max_megapixels=0.0004)).preprocessing
    assert how(png(0, 0), "x").shape == (1, 20, 20)
    with pytest.raises(StageError, match=r"20 x 20 pixels are too many"):
        replace(how, max_megapixels=0.0003)(png(0, 0), "x")


def test_linked_folder_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", by_class("{name}/{number}.png"))
    (path / "cat/loop").symlink_to(path)
    own = labeled_images.load(path, options())
    (problem,) = own.problems
    assert problem.endswith("'cat/loop': a link to a folder, which DVC does not follow; copy the folder")


def test_folder_that_dvc_add_would_leave_out_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", by_class("{name}/{number}.png") | {"cat/.dvc/config": b""})
    with pytest.raises(StageError, match=r"cat: is a DVC repository, whose files `dvc add` leaves out"):
        labeled_images.load(path, options())


@pytest.mark.parametrize("outside", ["../cat/1.png", "/cat/2.png"])
def test_archive_that_leaves_its_folder_is_refused(outside: str, tmp_path: Path) -> None:
    path = as_zip(tmp_path / "pets.zip", {**by_class("{name}/{number}.png"), outside: png(0, 1)})
    assert f"{outside!r}: the name leaves the folder; unpack the archive yourself" in refusal(path)


def test_archive_that_is_encrypted_or_damaged_is_refused(tmp_path: Path) -> None:
    files = by_class("{name}/{number}.png")
    path = as_zip(tmp_path / "pets.zip", files)
    content = path.read_bytes()
    entry = content.index(b"PK\x01\x02")
    path.write_bytes(content[: entry + 8] + bytes([content[entry + 8] | 1]) + content[entry + 9 :])  # encryption's bit
    assert "is encrypted, password required" in refusal(path)
    tar = as_tar(tmp_path / "pets.tar.gz", files)
    tar.write_bytes(tar.read_bytes()[:-200])
    assert "pets.tar.gz: not a readable archive" in refusal(tar)


def test_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.prepare.file_tree.SMALL_BYTES", 0)
    path = as_zip(tmp_path / "pets.zip", {"cat/1.png": bytes(1 << 20)})
    assert "pets.zip: unpacks to 200 times its size or more" in refusal(path)


def test_rows_and_images_that_do_not_fit_are_named_with_their_rows(tmp_path: Path) -> None:
    text = b"image,label\n" + b"".join(f"{a}-{b}.png,{CLASSES[a]}\n".encode() for a, b, _ in samples())
    text += b"\n0-0.png,cat\nmissing.png,cat\n0-1.png,\n"
    path = write(tmp_path / "pets", {"all.csv": text, **images(), "extra.png": png(0, 9)})
    problems = "\n".join(labeled_images.load(path, options()).problems)
    assert "rows 2, 21 are all of the image '0-0.png'" in problems
    assert "row 22: image 'missing.png': there is no such file" in problems
    assert "row 23: label is empty" in problems
    assert "no row of a table names extra.png" in problems


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_column": "picture"}, "has no column 'picture', which annotate.image_column names; it has image, x"),
        ({}, "name the column of the labels: annotate.label_column; it has image, x, z"),
        ({"label_column": "x", "split_column": "z"}, "'7' is no split; the splits are train, val and test"),
    ],
)
def test_columns_that_are_not_plain_are_asked_for(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "pets", {"all.csv": b"image,x,z\n0-0.png,a,7\n1-1.png,b,7\n", **images()})
    with pytest.raises(StageError) as error:
        labeled_images.load(path, options(**change))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "has no labeled image: put the images into a folder for each class"),
        ({"all.csv": b"image,label\n1.png,cat\n", "1.png": png(0, 0)}, "has one class only, 'cat'"),
        (
            {"cat/1.png": png(0, 0), "dog/1.png": png(1, 0)},
            "no test image: of 2 images in 2 classes none could be drawn",
        ),
    ],
)
def test_too_little_is_refused(files: dict[str, bytes], says: str, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    with pytest.raises(StageError) as error:
        labeled_images.load(write(tmp_path / "pets", files), options())
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"),
    [(12, 12, 350), (33, 33, 350), (144, 32, 70), (257, 33, 44), (610, 32, 19), (4_000, 128, 19), (9_000, 256, 19)],
)
def test_advice_for_few_images_is_more_steps_and_no_tiny_batch(images: int, batch_size: int, epochs: int) -> None:
    """With a batch of 4, 144 images gave a model as good as chance; a last batch of one image is refused by train."""
    assert check_images.advise(images, 256, 19) == (batch_size, epochs)
    assert check_images.advise(images, batch_size, epochs) == (batch_size, epochs)
    assert check_images.advise(144, 4, 19) == (32, 70)


def test_size_and_channels_are_chosen_from_the_images(tmp_path: Path) -> None:
    def content(size: tuple[int, int], mode: str, gray: int) -> bytes:
        out = io.BytesIO()
        Image.new("L", size, gray).convert(mode).save(out, "PNG")
        return out.getvalue()

    def chosen(*sizes: tuple[int, int], mode: str = "L", **changes: Any) -> tuple[int, int, int]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        places = [(name, number, copy) for name in "ab" for number in range(len(sizes)) for copy in range(3)]
        files = {
            f"{name}/{number}-{copy}.png": content(sizes[number], mode, place)
            for place, (name, number, copy) in enumerate(places)
        }
        how = labeled_images.load(write(folder, files), options(**changes)).preprocessing
        return how.channels, how.height, how.width

    assert chosen((30, 20)) == (1, 20, 30)
    assert chosen((300, 150), mode="RGB") == (3, 32, 64)
    assert chosen((8, 8)) == (1, 16, 16)
    assert chosen((40, 30), (30, 40), (36, 36)) == (1, 36, 36)
    assert chosen((300, 200), (30, 40), size=[10, 12], channels=3) == (3, 10, 12)
