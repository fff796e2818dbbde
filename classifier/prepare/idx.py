"""The IDX format of MNIST and similar datasets: big-endian magic number, dimensions, then bytes.

Source: yann.lecun.com/exdb/mnist, "FILE FORMATS FOR THE MNIST DATABASE".
"""

import struct
from pathlib import Path

from classifier.errors import StageError

import numpy as np

UINT8 = 8


def read(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes as an array: ``(N,)`` for labels, ``(N, H, W)`` for images.

    Raises:
        StageError: the file is not an IDX file with that many dimensions, or its length does not match its header.
    """
    return parse(path.read_bytes(), f"{path}", dimensions, "; remove it and download again")


def parse(content: bytes, name: str, dimensions: int, advice: str = "") -> np.ndarray:
    """The same from the content of a file.

    Args:
        content: uncompressed.
        name: of the file, for messages.
        dimensions: 1 for labels, 3 for images.
        advice: added to messages.

    Raises:
        StageError: as ``read``.
    """
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, UINT8, dimensions]):
        raise StageError(f"{name}: not an IDX file of bytes with {dimensions} dimension(s){advice}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    needed = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != needed:
        raise StageError(f"{name}: has {len(content):,} bytes where its header promises {needed:,}{advice}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def write(path: Path, array: np.ndarray) -> None:
    """The inverse of ``read``, for ``uint8`` arrays."""
    header = bytes([0, 0, UINT8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8, casting="equiv").tobytes())
