"""The annotations file and the images: what is read, and what a bad file or row gets: one line that names it."""

import zipfile
from pathlib import Path
from typing import Any

from classifier.data import annotations, images
from classifier.data.dataset import AnnotatedImages
from classifier.errors import StageError
from tests.support import own
from tests.unit.helpers import flip_byte, one_line, write_annotated, write_rows

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

HEADER = "image,label,class_name,split"
GOOD = ["a/0.png,0,cat,train", "a/1.png,1,dog,train", "b/2.png,0,cat,val", "b/3.png,1,dog,test"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four small RGB images in a folder, and their annotations."""
    write_annotated(tmp_path, GOOD, [np.full((6, 5, 3), 40 * number, np.uint8) for number in range(4)])
    return tmp_path


def dataset(folder: Path, *args: Any, img_dir: str = "images", **options: Any) -> AnnotatedImages:
    return AnnotatedImages(folder / "annotations.csv", folder / img_dir, *args, **options)


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        ("image,label,split", ["a,0,train"], "has no column 'class_name'; its header must hold"),
        (HEADER, [], "has a header but no rows"),
        (HEADER, [*GOOD, ",0,cat,train"], "row 6: image '' is empty"),
        (HEADER, [*GOOD, "c.png,,cat,train"], "row 6: label '' is empty"),
        (HEADER, ["a.png,0, ,train"], "row 2: class_name ' ' is empty"),
        (HEADER, [*GOOD, "a/1.png,1,dog,test"], "row 6: image 'a/1.png' is duplicated"),
        (HEADER, [*GOOD, "c.png,0,cat,training"], "row 6: split 'training' must be one of train, val, test"),
        (HEADER, ["", GOOD[0], "", GOOD[1], "c.png,0,cat,training"], "row 6: split 'training'"),  # as in an editor
        (HEADER, [*GOOD, "c.png,-1,cat,train"], "row 6: label '-1' must be a whole number from 0"),
        (HEADER, [*GOOD, "c.png,1.0,dog,train"], "row 6: label '1.0' must be a whole number"),
        (HEADER, [*GOOD, "c.png,7,owl,train"], "row 6: label '7' is out of range: 3 classes are numbered 0 to 2"),
        (HEADER, [*GOOD, "c.png,0,dog,train"], "row 6: class_name 'dog' differs from an earlier row"),
        (HEADER, [*GOOD, "c.png,2,dog,train"], "row 6: class_name 'dog' had another label"),
        (HEADER, ["../a.png,0,cat,train"], "row 2: image '../a.png' must be a path below the image folder"),
        (HEADER, ["/etc/a.png,0,cat,train"], "row 2: image '/etc/a.png' must be a path below"),
        (HEADER, ["b/../../a.png,0,cat,train"], "must be a path below"),
        (HEADER, ["C:/a.png,0,cat,train"], "must be a path below"),
        (HEADER, ["b\\a.png,0,cat,train"], "must be a path below"),
        (HEADER, ["a,b,c,d,e,f"], "not a UTF-8 CSV file: Length of header or names does not match"),
        (HEADER, [*GOOD, "a,b,c,d,e,f"], "not a UTF-8 CSV file: Error tokenizing data. C error: Expected 4 fields"),
    ],
)
def test_bad_annotations_raise_one_line(tmp_path: Path, header: str, rows: list[str], says: str) -> None:
    path = write_rows(tmp_path / "annotations.csv", rows, header)
    with pytest.raises(StageError, match=one_line(says)) as caught:
        annotations.read(path)
    assert str(caught.value).startswith(str(path))


def test_dots_inside_a_name_are_accepted(tmp_path: Path) -> None:
    rows = ["a..b/c.d.png,0,cat,train", "..hidden/x.png,1,NA,train"]
    frame = annotations.read(write_rows(tmp_path / "annotations.csv", rows))
    assert annotations.class_names(frame) == ["cat", "NA"]  # a class may be called NA


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a,b\n1,2,3\n4,5,6,7\n"])
def test_broken_csv_raises_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "annotations.csv"
    with pytest.raises(StageError, match=one_line("annotations.csv is missing")):
        annotations.read(path)
    path.write_bytes(content)
    with pytest.raises(StageError, match=one_line("annotations.csv: not a UTF-8 CSV file: ")):
        annotations.read(path)


def test_folder_and_zip_give_equal_images(folder: Path) -> None:
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for file in sorted((folder / "images").rglob("*.png")):
            archive.write(file, file.relative_to(folder / "images").as_posix())
    from_folder, from_zip = dataset(folder), dataset(folder, img_dir="images.zip")
    everything = torch.arange(4)
    assert torch.equal(from_folder.batch(everything), from_zip.batch(everything))
    assert from_folder.batch(everything).shape == (4, 3, 6, 5)
    assert from_folder.labels.tolist() == [0, 1, 0, 1]
    assert from_folder.class_names == ["cat", "dog"]
    assert dataset(folder, split="val").names == ["b/2.png"]


def test_dataset_has_the_signature_of_the_pytorch_tutorial(folder: Path) -> None:
    """Signature and use as in PyTorch's "Datasets & DataLoaders": positional arguments, transforms, a DataLoader."""
    data = dataset(
        folder,
        lambda image: image.float() / 255,
        lambda label: torch.zeros(2).scatter_(0, torch.tensor(label), value=1),
    )
    image, target = data[1]
    assert image.dtype == torch.float32
    assert image.max() == pytest.approx(40 / 255)
    assert target.tolist() == [0, 1]
    batches = list(DataLoader(data, batch_size=3))
    assert [len(images) for images, _ in batches] == [3, 1]
    plain, label = dataset(folder)[2]
    assert (plain.dtype, plain.shape, label) == (torch.uint8, (3, 6, 5), 0)


def encoded(mode: str, width: int) -> bytes:
    return own.encode(Image.new(mode, (width, 6)), "PNG")


BAD_IMAGES = {
    "truncated": (encoded("RGB", 5)[:45], "b/3.png: not a readable image"),
    "no picture": (b"no picture at all", "b/3.png: not a readable image"),
    "other size": (
        encoded("RGB", 6),
        "b/3.png: is 3x6x6 (channels x height x width), but the images before it are 3x6x5",
    ),
    "alpha": (encoded("RGBA", 5), "b/3.png: has the mode RGBA; convert it to grayscale (L) or RGB"),
    "missing": (None, "has no image 'b/3.png', which the annotations list"),
}


@pytest.mark.parametrize(("content", "says"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_image_raises_one_line(folder: Path, content: bytes | None, says: str) -> None:
    last = folder / "images/b/3.png"
    last.unlink() if content is None else last.write_bytes(content)
    with pytest.raises(StageError, match=one_line(says)):
        dataset(folder)


def test_image_of_too_many_pixels_raises_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's process reads with Pillow's own limit, or with ours: a bomb has a name in both."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(StageError, match=r"^a/0\.png: not a readable image: "):
        dataset(folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(images, "MAX_MEGAPIXELS", 29e-6)
    with pytest.raises(
        StageError, match=r"^a/0\.png: not a readable image: 5 x 6 pixels are too many; at most 2.9e-05"
    ):
        dataset(folder)


def test_file_that_is_no_archive_raises_one_line(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with pytest.raises(StageError, match="is missing"):
        images.reader(path)
    path.write_bytes(b"PK but no ZIP")
    with pytest.raises(StageError, match="neither a folder nor a ZIP"):
        images.reader(path)


@pytest.mark.parametrize(
    ("compression", "says"),
    [
        (zipfile.ZIP_STORED, "the image 'a.png' is damaged: Bad CRC-32"),
        (zipfile.ZIP_DEFLATED, "the image 'a.png' is damaged: Error -3 while decompressing data"),
    ],
)
def test_damaged_image_of_an_archive_is_named(tmp_path: Path, compression: int, says: str) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.png", b"an image" * 100)
    flip_byte(path, 35)  # where its bytes begin
    with pytest.raises(StageError, match=one_line(says)):
        images.reader(path)("a.png")
    with pytest.raises(StageError, match=r"has no image 'b.png'"):
        images.reader(path)("b.png")


def test_mean_and_std_equal_numpy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 7), dtype=np.uint8)
    means, stds = images.mean_and_std([pixels[:20], pixels[20:]])
    np.testing.assert_allclose(means, (pixels / 255).mean((0, 2, 3)))
    np.testing.assert_allclose(stds, (pixels / 255).std((0, 2, 3)))


def test_wrong_image_read_late_is_named(tmp_path: Path) -> None:
    shapes = [(4, 4)] * 20 + [(4, 5)]
    rows = [f"{number}.png,0,cat,train" for number in range(21)]
    write_annotated(tmp_path, rows, [np.zeros(shape, np.uint8) for shape in shapes])
    data = dataset(tmp_path, memory_mb=0)
    with pytest.raises(StageError, match=r"20.png: is 1x4x5 .* but the images before it are 1x4x4"):
        list(data.iter_batches(3))
