"""The files below a folder or in an archive, by name, whatever the archive's format."""

import io
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from classifier.errors import StageError
from classifier.runner.files import is_left_behind

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_FILE_BYTES = 1 << 30  # of a file in an archive; more is a bomb or no image
MAX_RATIO = 200  # unpacked to packed bytes of a whole tar archive; photographs have about 1, drawings 20
UNSAFE = re.compile(r"^/|^[A-Za-z]:|\\|(^|/)\.\.(/|$)|[\x00-\x1f\x7f]")


@dataclass
class FileTree:
    """Files by name, and why some of them cannot be used.

    Attributes:
        path: the folder or archive.
        read: the content of a file by its name; may be called from several threads.
        names: relative to the folder or archive, with ``/``, sorted.
        problems: one line for each file that cannot be used.
        ignored: files and folders that are left out by their names.
    """

    path: Path
    read: Callable[[str], bytes]
    names: list[str]
    problems: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def strip_common_folder(self) -> "FileTree":
        """The tree below the one folder that all names begin with, if there is one: archives often have it."""
        tree = self
        while tree.names and len({name.partition("/")[0] for name in tree.names}) == 1 and "/" in tree.names[0]:
            prefix = tree.names[0].partition("/")[0] + "/"
            names, read = [name.removeprefix(prefix) for name in tree.names], tree.read
            tree = replace(tree, names=names, read=lambda name, r=read, p=prefix: r(p + name))  # type: ignore[misc]
        return tree


def open_tree(path: Path) -> FileTree:
    """The files of a folder, or of an archive by the end of its name.

    Raises:
        StageError: there is no such folder or archive, or it is damaged.
    """
    if path.is_dir():
        return _folder(path)
    name = path.name.lower()
    try:
        if name.endswith(".zip"):
            return _zip(path)
        return _tar(path)
    except FileNotFoundError:
        raise StageError(
            f"{path} is missing; put your images there, or name another `dataset` in params.yaml"
        ) from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise StageError(f"{path}: not a readable archive: {error}") from None


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive that ``open_tree`` reads."""
    return path.name.lower().endswith(ARCHIVES)


def _folder(path: Path) -> FileTree:
    problems: list[str] = []
    ignored: list[str] = []

    def walk(folder: Path) -> Iterator[str]:
        if (folder / ".dvc").is_dir():
            raise StageError(f"{folder}: is a DVC repository, whose files `dvc add` leaves out; remove {folder}/.dvc")
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
            return
        for entry in entries:
            name = Path(entry.path).relative_to(path).as_posix()
            if is_left_behind(name):
                ignored.append(name)
            elif entry.is_symlink() and os.path.isdir(entry):
                problems.append(f"{path / name}: a link to a folder, which DVC does not follow; copy the folder")
            elif entry.is_dir(follow_symlinks=False):
                yield from walk(Path(entry.path))
            elif not os.path.isfile(entry):
                problems.append(f"{path / name}: not a regular file")
            elif _is_safe(path, name, problems):
                yield name

    return FileTree(path, lambda name: (path / name).read_bytes(), list(walk(path)), problems, ignored)


def _zip(path: Path) -> FileTree:
    archive, problems, names, ignored = zipfile.ZipFile(path), [], [], []
    for entry in archive.infolist():
        name = entry.filename
        if entry.is_dir():
            continue
        if is_left_behind(name):
            ignored.append(name)
        elif entry.flag_bits & 1:
            problems.append(f"{path}, {name!r}: encrypted; unpack the archive and pack it without a password")
        elif entry.file_size > MAX_FILE_BYTES:
            problems.append(
                f"{path}, {name!r}: unpacks to {entry.file_size:,} bytes; at most {MAX_FILE_BYTES:,} are read"
            )
        elif _is_safe(path, name, problems):
            names.append(name)
    return FileTree(path, archive.read, _unique(path, names, problems), problems, ignored)


def _tar(path: Path) -> FileTree:
    content: IO[bytes] = path.open("rb")
    with tarfile.open(path) as archive:
        compressed = not isinstance(archive.fileobj, io.BufferedReader)
        if compressed:  # unpacked once, to a file that is gone when it is closed: then each member has a place in it
            packed = path.stat().st_size
            content = tempfile.TemporaryFile()  # noqa: SIM115
            assert archive.fileobj is not None
            archive.fileobj.seek(0)
            _copy(archive.fileobj, content, max(MAX_RATIO * packed, 1 << 26), path)
    problems: list[str] = []
    ignored: list[str] = []
    places: dict[str, tuple[int, int]] = {}
    content.seek(0)
    names = []
    with tarfile.open(fileobj=content, mode="r:") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isdir():
                continue
            if is_left_behind(name):
                ignored.append(name)
            elif not member.isreg():
                problems.append(f"{path}, {name!r}: not a regular file")
            elif _is_safe(path, name, problems):
                names.append(name)
                places[name] = member.offset_data, member.size
    descriptor = content.fileno()

    def read(name: str) -> bytes:
        assert not content.closed
        place, size = places[name]
        return os.pread(descriptor, size, place)

    return FileTree(path, read, _unique(path, names, problems), problems, ignored)


def _copy(source: Any, target: IO[bytes], most: int, path: Path) -> None:
    copied = 0
    while block := source.read(1 << 20):
        copied += len(block)
        if copied > most:
            raise StageError(f"{path}: unpacks to more than {most:,} bytes; unpack it yourself if that is right")
        target.write(block)


def _is_safe(path: Path, name: str, problems: list[str]) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        problems.append(f"{path}, {name!r}: the name is not UTF-8; rename the file")
        return False
    if UNSAFE.search(name):
        problems.append(
            f"{path}, {name!r}: the name leaves the folder or has a character that cannot be used; rename it"
        )
        return False
    return True


def _unique(path: Path, names: list[str], problems: list[str]) -> list[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            problems.append(f"{path}, {name!r}: is there twice")
        seen.add(name)
    return sorted(seen)
