"""The files below a folder by name.

An archive is unpacked to a folder in scratch/ first, which goes with the process that made it.
"""

import os
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from classifier import ROOT
from classifier.errors import StageError
from classifier.runner import files
from classifier.runner.files import is_left_behind

import psutil
from PIL import Image

IMAGE_SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_RATIO = 200  # unpacked to packed bytes; photographs have about 1, drawings 20; more is a bomb
SMALL_BYTES = 1 << 26  # that may be unpacked whatever the ratio
OUTSIDE = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)")
UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RuntimeError)
FOLDER = "unpacked-"  # begins the name of a folder in scratch/; then the process that made it
UNUSABLE = {
    re.compile(r"[\ud800-\udfff]|\\|[\x00-\x1f\x7f]"): (
        "the name has a backslash, a control character or is not UTF-8; rename it"
    ),
    re.compile(r"(^|/)\s|\s(/|$)"): "a name begins or ends with a blank; rename it",
}


@dataclass
class FileTree:
    """Files by name, and why some of them cannot be used.

    Attributes:
        path: the folder or archive that a person named.
        root: the folder that holds the files.
        names: relative to the root, with ``/``, sorted.
        folders: the same of folders.
        problems: one line for each file that cannot be used.
        ignored: files and folders that are left out by their names.
        kept: an object that must live as long as the files are needed.
    """

    path: Path
    root: Path
    names: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    kept: Any = None

    def read(self, name: str) -> bytes:
        """The content of a file; may be called from several threads."""
        return (self.root / name).read_bytes()

    def below_common_folder(self, counts: Callable[[str], bool]) -> "FileTree":
        """The tree below the one folder that holds all files that count, if there is one: archives often have it."""
        folder = os.path.commonpath([os.path.dirname(name) for name in self.names if counts(name)] or [""])
        below = [
            [name.removeprefix(f"{folder}/") for name in each if name.startswith(f"{folder}/")]
            for each in (self.names, self.folders)
        ]
        return replace(self, root=self.root / folder, names=below[0], folders=below[1]) if folder else self


def open_tree(path: Path) -> FileTree:
    """The files of a folder, or of an archive by the end of its name.

    Raises:
        StageError: there is no such folder or archive, or it is damaged.
    """
    tree = FileTree(path, path)
    if not path.exists():
        raise StageError(f"{path} is missing; put your images there, or name another `dataset` in params.yaml")
    if not path.is_dir():
        tree.kept = unpack(path)
        tree.root = Path(tree.kept.name)
    tree.names = list(_walk(tree, tree.root))
    return tree


def _walk(tree: FileTree, folder: Path, inside: str = "") -> Iterator[str]:
    if (folder / ".dvc").is_dir():
        raise StageError(f"{folder}: is a DVC repository, whose files `dvc add` leaves out; remove {folder}/.dvc")
    with os.scandir(folder) as entries:  # knows what is a folder without a look at each file
        in_order = sorted(entries, key=lambda entry: entry.name)
    for entry in in_order:
        name = f"{inside}{entry.name}"
        if is_left_behind(name):
            tree.ignored.append(f"{name}/" if entry.is_dir() else name)
        elif reason := _unusable(entry, name):
            tree.problems.append(f"{tree.path}, {name!r}: {reason}")
        elif entry.is_dir():
            tree.folders.append(name)
            yield from _walk(tree, Path(entry), f"{name}/")
        else:
            yield name


def _unusable(entry: "os.DirEntry[str]", name: str) -> str:
    """Why a file or folder cannot be used; empty if it can."""
    if entry.is_symlink() and entry.is_dir():
        return "a link to a folder, which DVC does not follow; copy the folder"
    if entry.is_symlink() and not os.path.exists(entry):
        return "a link to a missing file, which stops `dvc add`; remove it"
    if not entry.is_dir() and not entry.is_file():
        return "no regular file"
    return "" if entry.is_dir() else next((reason for bad, reason in UNUSABLE.items() if bad.search(name)), "")


def is_image(name: str) -> bool:
    """Whether a file is an image, by its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_archive(path: PurePath) -> bool:
    """Whether the name is that of an archive that ``unpack`` takes."""
    return path.name.lower().endswith(ARCHIVES)


def unpack(path: Path) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder with the archive's files.

    Raises:
        StageError: the archive is damaged or encrypted, leaves the folder, or unpacks to too much.
    """
    scratch = Path(ROOT, "scratch")
    scratch.mkdir(exist_ok=True)
    for left in scratch.glob(f"{FOLDER}*"):  # by a process that was killed
        if not psutil.pid_exists(int(left.name.split("-")[1])):
            files.remove(left)
    folder = tempfile.TemporaryDirectory(prefix=f"{FOLDER}{os.getpid()}-", dir=scratch)
    try:
        with _open_zip(path) if path.name.lower().endswith(".zip") else tarfile.open(path) as archive:
            if isinstance(archive, zipfile.ZipFile):
                sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            else:
                sizes = {member.name: member.size for member in archive}
            if outside := next(filter(OUTSIDE.search, sizes), ""):
                raise StageError(f"{path}, {outside!r}: the name leaves the folder; unpack the archive yourself")
            if sum(sizes.values()) > max(MAX_RATIO * path.stat().st_size, SMALL_BYTES):
                raise StageError(f"{path}: unpacks to {MAX_RATIO} times its size or more; unpack it yourself")
            if isinstance(archive, zipfile.ZipFile):
                archive.extractall(folder.name)
            else:
                archive.extractall(folder.name, filter="data")
    except UNREADABLE as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StageError(f"{path}: not a readable archive: {why}") from None
    return folder


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path, metadata_encoding="utf-8")  # of names without a mark of their encoding
    except UnicodeDecodeError:
        return zipfile.ZipFile(path)
