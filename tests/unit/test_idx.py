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
    rows, pixels = idx.read(tree, tree.names, ["no", "yes"])
    assert rows.to_dict("list") == {
        "image": ["test/00000", "test/00001"],
        "class_name": ["yes", "no"],
        "split": ["test", "test"],
        "group": ["", ""],
    }
    assert [pixels[name].tolist() for name in rows["image"]] == [[[0, 1, 2]], [[3, 4, 5]]]
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    tree = open_tree(tmp_path)
    with pytest.raises(StageError, match=r"'t10k-images-idx3-ubyte\.gz': truncated or damaged gzip"):
        idx.read(tree, tree.names, [])
