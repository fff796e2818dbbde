"""The IDX format."""

import struct

from classifier.prepare import idx

import pytest


def test_idx_reads_and_writes_the_published_format(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(struct.pack(">IIII", 0x803, 2, 1, 3) + bytes(range(6)))
    assert idx.read(path, 3).tolist() == [[[0, 1, 2]], [[3, 4, 5]]]
    idx.write(path, idx.read(path, 3))
    assert path.read_bytes()[:4] == b"\0\0\x08\x03"
