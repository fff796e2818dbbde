"""Shards: the same bytes always, one that changes when the set grows, and one line for what is damaged."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from classifier.data import images, shards
from classifier.errors import StageError
from tests.unit.helpers import flip_byte, one_line

import datasets
import numpy as np
import pytest
import webdataset

ODD = [f"{'ü' * 80}/{'x' * 60}.png", "a b/1,2.png", "a/.png.png", "50%/x.1.png", "50%/x.2.png"]
NAMES = [*ODD, *(f"class {number % 3}/{number:04}.png" for number in range(400))]


def picture(name: str) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 256, (3, 5, 4), dtype=np.uint8)


def write(folder: Path, names: list[str], most: int = 64) -> dict[str, bytes]:
    """Write the shards of these images, and return the files."""
    for shard, places in shards.plan(names, most):
        chosen = [names[place] for place in places]
        shards.write(folder, shard, ((name, len(name), images.png(picture(name))) for name in chosen))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_image_is_read_wherever_it_lies(tmp_path: Path) -> None:
    found = write(tmp_path, NAMES)
    assert {name.partition(".")[2] for name in found} == {"tar", "csv"}
    assert len(found) > 2 * 400 / 64
    read = images.reader(tmp_path)
    for name in NAMES:
        assert (images.decode(read(name), name) == picture(name)).all()
    with pytest.raises(StageError, match=r"has no image 'no\.png', which the annotations list"):
        read("no.png")
    names = []
    for path in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(path) as archive:
            members = archive.getmembers()
        assert {(each.mtime, each.uid, each.gid, each.uname, each.mode) for each in members} == {(0, 0, 0, "", 0o644)}
        names += [each.name for each in members]
    assert len({*names}) == len(names) == 2 * len(NAMES)


def test_growth_changes_one_shard_or_splits_one(tmp_path: Path) -> None:
    """The order of the names changes nothing, and neither does what was there before."""
    before = write(tmp_path / "before", NAMES)
    assert write(tmp_path / "again", NAMES[::-1]) == before
    for number in range(30):
        after = write(tmp_path / f"after {number}", [*NAMES, f"new/{number}.png"])
        gone = {name for name, content in before.items() if after.get(name) != content}
        assert {name.partition(".")[2] for name in gone} == {"tar", "csv"}
        assert len(gone) == 2
        assert len(after.keys() - before.keys()) in (0, 4)
        without = write(tmp_path / f"without {number}", [name for name in NAMES if name != NAMES[number]])
        assert len({name for name, content in without.items() if before.get(name) != content}) in (2, 4)  # or joins two


def test_most_images_in_a_shard_is_obeyed(tmp_path: Path) -> None:
    for most in (1, 7, 1000):
        sizes = [len(places) for _, places in shards.plan(NAMES, most)]
        assert max(sizes) <= most
        assert sum(sizes) == len(NAMES)
        assert len(sizes) < 4 * len(NAMES) / most + 3


def lie(tar: Path) -> None:
    tar.with_suffix(".csv").write_text("image,offset\ncat/1.png,1024\n")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda tar: os.truncate(tar, tar.read_bytes().index(b"IDAT")), "is damaged: {tar}.tar ends in it"),
        (lie, "is damaged: it does not begin where {tar}.csv says"),
        (lambda tar: flip_byte(tar, tar.read_bytes().index(b"IDAT") + 30), "not a readable image"),
        (Path.unlink, "has no image 'cat/1.png'"),
    ],
    ids=["truncated", "index lies", "another byte", "missing"],
)
def test_damaged_shard_is_named_in_one_line(tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    write(tmp_path, ["cat/1.png"])
    (tar,) = tmp_path.glob("*.tar")
    damage(tar)
    read = images.reader(tmp_path)
    with pytest.raises(StageError, match=one_line(says.format(tar=tar.stem))):
        images.decode(read("cat/1.png"), "cat/1.png")


def test_webdataset_and_hugging_face_read_them(tmp_path: Path) -> None:
    write(tmp_path / "shards", NAMES)
    paths = sorted(map(str, (tmp_path / "shards").glob("*.tar")))
    labels = {images.png(picture(name)): len(name) for name in NAMES}
    samples = webdataset.WebDataset(paths, shardshuffle=False, empty_check=False)
    assert {sample["png"]: int(sample["cls"]) for sample in samples} == labels
    rows = datasets.load_dataset("webdataset", data_files=paths, split="train", cache_dir=str(tmp_path / "cache"))
    rows = rows.cast_column("png", datasets.Image(decode=False))
    assert {row["png"]["bytes"]: row["cls"] for row in rows} == labels
