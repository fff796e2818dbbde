"""The IDX format of MNIST and similar datasets: big-endian magic number, dimensions, then bytes.

Source: yann.lecun.com/exdb/mnist, "FILE FORMATS FOR THE MNIST DATABASE".
"""

import gzip
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath

from classifier.errors import StageError
from classifier.prepare.file_tree import FileTree
from classifier.prepare.splits import split_of

import numpy as np
import pandas as pd

UINT8 = 8
NAME = re.compile(r"(?P<part>[^/]*?)-?(?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?$")


def is_idx(name: str) -> bool:
    """Whether a file is in this format, by its name."""
    return NAME.search(PurePosixPath(name).name) is not None


def read(tree: FileTree, names: Sequence[str], class_names: Sequence[str]) -> pd.DataFrame:
    """Pairs of files with images and labels. Without class names, the numbers are the names.

    Returns:
        The rows of a ``Collection``, with one more column, ``content``: the pixels, ``(H, W) uint8``.

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
    for part, kinds in sorted(by_part.items()):
        if missing := {"images", "labels"} - kinds.keys():
            raise StageError(f"{tree.path}: has no {missing.pop()} beside {next(iter(kinds.values()))!r}")
        images, labels = (_parse(tree, kinds[kind], dimensions) for kind, dimensions in (("images", 3), ("labels", 1)))
        if len(images) != len(labels):
            raise StageError(f"{tree.path}: {part} has {len(images):,} images but {len(labels):,} labels")
        if class_names and labels.max(initial=0) >= len(class_names):
            raise StageError(
                f"{tree.path}: {part} has the label {labels.max()}; the classes are 0 to {len(class_names) - 1}"
            )
        named = np.array(class_names)[labels] if class_names else labels.astype(str)
        rows = pd.DataFrame({"class_name": named, "split": splits[part], "group": "", "content": [*images]})
        rows["image"] = [f"{splits[part] or part or 'images'}/{number:05d}" for number in range(len(rows))]
        frames.append(rows)
    return pd.concat(frames, ignore_index=True)


def _parse(tree: FileTree, name: str, dimensions: int) -> np.ndarray:
    """A file of unsigned bytes as an array: ``(N,)`` for labels, ``(N, H, W)`` for images."""
    where, content = f"{tree.path}, {name!r}", tree.read(name)
    if name.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise StageError(f"{where}: truncated or damaged gzip ({error})") from None
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, UINT8, dimensions]):
        raise StageError(f"{where}: not an IDX file of bytes with {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    needed = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != needed:
        raise StageError(f"{where}: has {len(content):,} bytes where its header promises {needed:,}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
