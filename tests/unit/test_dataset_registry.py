"""The known datasets and the origin of one's own."""

import json
import re
from pathlib import Path

from classifier.errors import StageError
from classifier.prepare import collection
from classifier.prepare.file_tree import open_tree
from classifier.prepare.registry import DATASETS, RAW_FILES

import pytest


def test_registry_has_a_digest_for_every_file() -> None:
    for name, entry in DATASETS.items():
        assert [file.name for file in entry.files] == list(RAW_FILES), name
        assert len(entry.class_names) == 10
        digests = [digest for file in entry.files for digest in (file.gzip_md5, file.content_md5) if digest]
        assert len(set(digests)) == len(digests)
        assert all(len(digest) == 32 for digest in digests)


def test_registry_digests_equal_torchvision() -> None:
    from torchvision.datasets import KMNIST, MNIST, FashionMNIST

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
    with pytest.raises(StageError, match=re.escape(says)):
        collection.read_info(tmp_path, open_tree(tmp_path))


def test_registry_has_name_and_license_for_every_dataset(tmp_path: Path) -> None:
    for entry in DATASETS.values():
        (tmp_path / "dataset_info.json").write_text(json.dumps(entry.info))
        info = collection.read_info(tmp_path, open_tree(tmp_path))
        assert info == {"model_author": "unknown", **entry.info}
