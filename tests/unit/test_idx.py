"""The IDX format."""

import struct
from pathlib import Path

from classifier.errors import StageError
from classifier.prepare import idx
from classifier.prepare.file_tree import open_tree

import pytest


def test_idx_files_are_read_in_the_published_format(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 2, 1, 3) + bytes(range(6)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 2) + bytes([1, 0]))
    tree = open_tree(tmp_path)
    rows = idx.read(tree, tree.names, ["no", "yes"])
    pixels = rows.pop("content")
    assert rows.to_dict("list") == {
        "image": ["test/00000", "test/00001"],
        "class_name": ["yes", "no"],
        "split": ["test", "test"],
        "group": ["", ""],
    }
    assert [image.tolist() for image in pixels] == [[[0, 1, 2]], [[3, 4, 5]]]
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    tree = open_tree(tmp_path)
    with pytest.raises(StageError, match=r"'t10k-images-idx3-ubyte\.gz': truncated or damaged gzip"):
        idx.read(tree, tree.names, [])


def write(path: Path, part: str) -> None:
    path.mkdir(exist_ok=True)
    (path / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 2, 1, 3) + bytes(range(6)))
    (path / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 2) + bytes([1, 0]))


def test_parts_by_the_words_in_their_names_and_one_set_only(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path, f"emnist-balanced-{part}")
    tree = open_tree(tmp_path)
    rows = idx.read(tree, tree.names, [])
    assert sorted(rows["split"]) == ["test", "test", "train", "train"]
    write(tmp_path, "emnist-letters-train")
    write(tmp_path / "copy", "emnist-balanced-train")
    tree = open_tree(tmp_path)
    with pytest.raises(StageError, match="several sets"):
        idx.read(tree, tree.names, [])
