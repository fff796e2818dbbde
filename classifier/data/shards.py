"""Images in shards: uncompressed tar archives that WebDataset reads, ``cat/12.png`` with its label in ``cat/12.cls``.

A shard has the images whose hash of the name begins with the bits in the shard's own name; one that would be too large
is two. So a new image changes one shard, or splits one, and DVC stores and pushes that one alone. The order in a shard
is that of the hashes, which mixes the classes for those who read it from its beginning to its end. Its index, a CSV
beside it, says where the content of each image begins, so that any image is read without a scan.
"""

import csv
import functools
import hashlib
import itertools
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from classifier.data.open_file import OpenFile

import numpy as np

BITS = 64  # of the hash of a name
BLOCK = tarfile.BLOCKSIZE  # bytes: a header has one, and a content is padded to whole ones
COLUMNS = ("image", "offset")  # of an index
MAX_OPEN = 256  # shards, of those that are read
NAME, SIZE = slice(0, tarfile.LENGTH_NAME), slice(124, 135)  # of a content, in the header before it; in octal digits


def plan(names: Sequence[str], most: int) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each shard and the places of its images among the names, in their order in the shard.

    Args:
        names: of all images, all different.
        most: images in a shard.
    """
    hashes = np.array([_hash(name) for name in names], np.uint64)
    order = hashes.argsort(kind="stable")
    in_order = hashes[order]

    def split(begin: int, end: int, bits: str) -> Iterator[tuple[str, np.ndarray]]:
        if bits and (end - begin <= most or len(bits) == BITS):
            yield from [(f"shard-{bits}", order[begin:end])] * (end > begin)
        else:
            first_of_second_half = np.uint64(int(f"{bits}1".ljust(BITS, "0"), 2))
            middle = int(in_order.searchsorted(first_of_second_half))
            yield from split(begin, middle, f"{bits}0")
            yield from split(middle, end, f"{bits}1")

    return split(0, len(order), "")


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=BITS // 8).digest(), "big")


def stored_bytes(content: bytes) -> int:
    """The bytes that an image of this content takes in a shard, with its label."""
    return BLOCK + _padded(len(content)) + 2 * BLOCK


def write(folder: Path, shard: str, images: Iterable[tuple[str, int, bytes]]) -> None:
    """Write a shard and its index: the name, label and PNG file of each image, in that order."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / f"{shard}.tar").open("wb") as stream,
        (folder / f"{shard}.csv").open("w", encoding="utf-8", newline="") as file,
    ):
        index = csv.writer(file, lineterminator="\n")
        index.writerow(COLUMNS)
        for name, label, content in images:
            for end, data in ((".cls", str(label).encode()), (".png", content)):
                entry = tarfile.TarInfo(_member(name) + end)  # with no owner, and the date 0
                entry.size = len(data)
                stream.write(entry.tobuf(tarfile.GNU_FORMAT))
                offset = stream.tell()
                stream.write(data.ljust(_padded(len(data)), b"\0"))
            index.writerow((name, offset))
        stream.write(bytes(2 * BLOCK))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _member(name: str) -> str:
    """An image's name in a shard, without its end: WebDataset splits the last part of a path at its first dot."""
    folder, slash, last = name.removesuffix(".png").rpartition("/")
    return folder + slash + last.replace("%", "%25").replace(".", "%2E")


def has_shards(folder: Path) -> bool:
    """Whether the images of a folder are in shards."""
    return any(folder.glob("shard-*.csv"))


def files_in(folder: Path) -> list[Path]:
    """The files of all shards in a folder, sorted."""
    return sorted([*folder.glob("shard-*.tar"), *folder.glob("shard-*.csv")])


def reader(folder: Path) -> Callable[[str], bytes]:
    """A function that maps an image's name to its PNG file; it may be called from several threads.

    Raises:
        KeyError, FileNotFoundError, tarfile.TarError: by the function: there is no such image, its shard is missing,
            or it is damaged.
    """
    known = {path.stem for path in folder.glob("shard-*.csv")}

    @functools.cache
    def offsets(shard: str) -> dict[str, int]:
        with (folder / f"{shard}.csv").open(encoding="utf-8", newline="") as file:
            return {name: int(offset) for name, offset in itertools.islice(csv.reader(file), 1, None)}

    @functools.lru_cache(MAX_OPEN)
    def opened(shard: str) -> OpenFile:
        return OpenFile(folder / f"{shard}.tar")

    def read(name: str) -> bytes:
        bits = f"{_hash(name):0{BITS}b}"
        shard = next(found for end in range(1, BITS + 1) if (found := f"shard-{bits[:end]}") in known or end == BITS)
        offset, file = offsets(shard)[name], opened(shard)
        header = file.read(offset - BLOCK, BLOCK)
        if header[NAME].rstrip(b"\0") != f"{_member(name)}.png".encode()[NAME]:
            raise tarfile.ReadError(f"it does not begin where {shard}.csv says")
        size = int(header[SIZE], 8)
        content = file.read(offset, size)
        if len(content) < size:
            raise tarfile.ReadError(f"{shard}.tar ends in it")
        return content

    return read
