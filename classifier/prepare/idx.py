"""The IDX format of MNIST and similar datasets: big-endian magic number, dimensions, then bytes.

Source: yann.lecun.com/exdb/mnist, "FILE FORMATS FOR THE MNIST DATABASE".
"""

import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from classifier.data.open_file import OpenFile
from classifier.errors import StageError
from classifier.prepare.file_tree import FileTree
from classifier.prepare.splits import split_of

import numpy as np
import pandas as pd

UINT8 = 8
NAME = re.compile(r"(?P<part>[^/]*?)-?(?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?$")


def is_idx(name: str) -> bool:
    """Whether a file is in this format, by its name."""
    return NAME.search(name) is not None


def read(
    tree: FileTree, names: Sequence[str], class_names: Sequence[str]
) -> tuple[pd.DataFrame, Callable[[str], np.ndarray]]:
    """Pairs of files with images and labels. Without class names, the numbers are the names.

    Returns:
        The rows of a ``Collection``, and a function that reads the pixels of an image of that name, ``(H, W) uint8``.

    Raises:
        StageError: a file is damaged, has no counterpart or another number of images, or a label has no name.
    """
    by_part: dict[str, dict[str, str]] = {}
    for name in names:
        match = NAME.search(PurePosixPath(name).name)
        assert match
        if (first := by_part.setdefault(match["part"], {}).setdefault(match["kind"], name)) != name:
            raise StageError(f"{tree.path}: several sets: {first!r} and {name!r}; keep one")
    splits = {part: split_of(part) for part in by_part}
    if len(set(splits.values())) < len(splits):
        raise StageError(f"{tree.path}: several sets: {', '.join(sorted(map(repr, splits)))}; keep one")
    frames: list[pd.DataFrame] = []
    files: dict[str, _File] = {}
    for part, kinds in sorted(by_part.items()):
        if missing := {"images", "labels"} - kinds.keys():
            raise StageError(f"{tree.path}: has no {missing.pop()} beside {next(iter(kinds.values()))!r}")
        images, label_file = _open(tree, kinds["images"], 3), _open(tree, kinds["labels"], 1)
        labels = label_file.read(0, label_file.shape[0])
        if images.shape[0] != len(labels):
            raise StageError(f"{tree.path}: {part} has {images.shape[0]:,} images but {len(labels):,} labels")
        if class_names and labels.max(initial=0) >= len(class_names):
            raise StageError(
                f"{tree.path}: {part} has the label {labels.max()}; the classes are 0 to {len(class_names) - 1}"
            )
        named = np.array(class_names)[labels] if class_names else labels.astype(str)
        folder = splits[part] or part or "images"
        rows = pd.DataFrame({"class_name": named, "split": splits[part], "group": ""})
        rows["image"] = [f"{folder}/{number:05d}" for number in range(len(rows))]
        files[folder] = images
        frames.append(rows)

    def find(name: str) -> np.ndarray:
        folder, _, number = name.rpartition("/")
        (image,) = files[folder].read(int(number), 1)
        return np.asarray(image)

    return pd.concat(frames, ignore_index=True), find


class _File:
    """A file of unsigned bytes; of one that is not compressed, only what is asked for is in memory.

    Args:
        path: of the file.
        content: if it had to be decompressed.
        header: bytes before the numbers.
        shape: ``(N,)`` for labels, ``(N, H, W)`` for images.
    """

    def __init__(self, path: Path, content: bytes | None, header: int, shape: tuple[int, ...]):
        self.path, self.content, self.header, self.shape = path, content, header, shape
        self._file = OpenFile(path)

    def read(self, first: int, count: int) -> np.ndarray:
        """That many labels or images from a place on, ``(count, ...) uint8``.

        Raises:
            StageError: the file is shorter than it was.
        """
        size = math.prod(self.shape[1:])
        begin, length = self.header + first * size, count * size
        found = self._file.read(begin, length) if self.content is None else self.content[begin : begin + length]
        if len(found) < length:
            raise StageError(f"{self.path} changed while the stage ran; run it again")
        return np.frombuffer(found, np.uint8).reshape((count, *self.shape[1:]))


def _open(tree: FileTree, name: str, dimensions: int) -> _File:
    where, path, content = f"{tree.path}, {name!r}", tree.root / name, None
    if name.endswith(".gz"):
        try:
            content = gzip.decompress(path.read_bytes())
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise StageError(f"{where}: truncated or damaged gzip ({error})") from None
    length = 4 + 4 * dimensions
    with path.open("rb") if content is None else io.BytesIO(content) as stream:
        header, size = stream.read(length), stream.seek(0, io.SEEK_END)
    if len(header) < length or header[:4] != bytes([0, 0, UINT8, dimensions]):
        raise StageError(f"{where}: not an IDX file of bytes with {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape[1:]:
        raise StageError(f"{where}: its images have no pixels")
    needed = length + math.prod(shape)
    if size != needed:
        raise StageError(f"{where}: has {size:,} bytes where its header promises {needed:,}")
    return _File(path, content, length, shape)
