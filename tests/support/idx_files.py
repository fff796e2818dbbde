"""IDX files as the tests write and read them."""

import struct
from pathlib import Path

import numpy as np


def write(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.unlink(missing_ok=True)  # DVC may have linked it to its cache
    path.write_bytes(header + array.astype(np.uint8, casting="equiv").tobytes())


def read(path: Path) -> np.ndarray:
    content = path.read_bytes()
    dimensions = content[3]
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
