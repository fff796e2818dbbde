"""The known datasets, their format IDX, and the origin of one's own."""

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

from classifier.errors import StageError
from classifier.prepare import collection, idx
from classifier.prepare.file_tree import open_tree
from classifier.prepare.registry import DATASETS, RAW_FILES
from tests.unit.helpers import one_line

import numpy as np
import pandas as pd
import pytest
from torchvision.datasets import KMNIST, MNIST, FashionMNIST


def test_every_dataset_has_digests_a_name_and_a_license(tmp_path: Path) -> None:
    for name, entry in DATASETS.items():
        assert [file.name for file in entry.files] == list(RAW_FILES), name
        assert len(entry.class_names) == 10
        digests = [digest for file in entry.files for digest in (file.gzip_md5, file.content_md5) if digest]
        assert len(set(digests)) == len(digests)
        assert all(len(digest) == 32 for digest in digests)
        (tmp_path / "dataset_info.json").write_text(json.dumps(entry.info))
        info = collection.read_info(tmp_path, open_tree(tmp_path))
        assert info == {"model_author": "unknown", **entry.info}


def test_registry_digests_equal_torchvision() -> None:
    for name, theirs in {"fashion-mnist": FashionMNIST, "mnist": MNIST, "kmnist": KMNIST}.items():
        assert [(f"{file.name}.gz", file.gzip_md5) for file in DATASETS[name].files] == theirs.resources
        assert list(DATASETS[name].class_names) == [c.partition(" - ")[0] for c in theirs.classes]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no JSON", "not a JSON file"),
        ("[]", "must be a JSON object of strings"),
        ('{"name": "Mine", "license": 4}', "must be a JSON object of strings"),
        ('{"name": "Mine"}', 'has no "license"; write "unknown" if you do not know it'),
    ],
)
def test_incomplete_dataset_info_raises_one_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(StageError, match=one_line(says)):
        collection.read_info(tmp_path, open_tree(tmp_path))


def write(path: Path, part: str) -> None:
    """Two images of 1x3 in the published format."""
    path.mkdir(exist_ok=True)
    (path / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 2, 1, 3) + bytes(range(6)))
    (path / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 2) + bytes([1, 0]))


def read(path: Path, *class_names: str) -> tuple[pd.DataFrame, Callable[[str], np.ndarray]]:
    tree = open_tree(path)
    return idx.read(tree, tree.names, [*class_names])


def test_idx_files_are_read_in_the_published_format(tmp_path: Path) -> None:
    write(tmp_path, "t10k")
    rows, find = read(tmp_path, "no", "yes")
    assert rows.to_dict("list") == {
        "image": ["test/00000", "test/00001"],
        "class_name": ["yes", "no"],
        "split": ["test", "test"],
        "group": ["", ""],
    }
    assert [find(name).tolist() for name in rows["image"]] == [[[0, 1, 2]], [[3, 4, 5]]]
    os.truncate(tmp_path / "t10k-images-idx3-ubyte", 20)
    with pytest.raises(StageError, match="t10k-images-idx3-ubyte changed while the stage ran"):
        find("test/00001")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(StageError, match=r"'t10k-images-idx3-ubyte\.gz': truncated or damaged gzip"):
        read(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">IIII", 0x803, 2, 0, 3)))
    with pytest.raises(StageError, match=r"'t10k-images-idx3-ubyte\.gz': its images have no pixels"):
        read(tmp_path)


def test_parts_by_the_words_in_their_names_and_one_set_only(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path, f"emnist-balanced-{part}")
    assert sorted(read(tmp_path)[0]["split"]) == ["test", "test", "train", "train"]
    write(tmp_path, "emnist-letters-train")
    write(tmp_path / "copy", "emnist-balanced-train")
    with pytest.raises(StageError, match="several sets"):
        read(tmp_path)
