"""An archive of images is checked and unpacked to a folder in scratch/, which goes with the process that made it."""

import os
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from classifier import ROOT
from classifier.errors import StageError
from classifier.runner import files
from classifier.runner.files import is_left_behind

import psutil

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_RATIO = 200  # unpacked to packed bytes; photographs have about 1, drawings 20; more is a bomb
SMALL_BYTES = 1 << 26  # that may be unpacked whatever the ratio
UNUSABLE = {
    r"[\ud800-\udfff]": "the name is not UTF-8",
    r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)": "the name leaves the folder",
    r"\\": "the name has a backslash",
    r"[\x00-\x1f\x7f]": "the name has a character that cannot be used",
    r"(^|/)\s|\s(/|$)": "a name begins or ends with a blank",
}
UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError, NotImplementedError)
FOLDER = "unpacked-"  # begins the name of a folder in scratch/; then the process that made it

# Name and size of a member, why it cannot be used (or nothing), and a function that opens it.
Member = tuple[str, int, str, Callable[[], Any]]


def is_archive(path: PurePath) -> bool:
    """Whether the name is that of an archive that ``unpack`` takes."""
    return path.name.lower().endswith(SUFFIXES)


def unusable_name(name: str) -> str:
    """Why a file cannot be used under its name; empty if it can."""
    return next((f"{reason}; rename it" for bad, reason in UNUSABLE.items() if re.search(bad, name)), "")


def unpack(path: Path, problems: list[str], ignored: list[str]) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder with the archive's files.

    Args:
        path: of the archive.
        problems: gets a line for each member that cannot be used.
        ignored: gets the names of members that are left out by their names.

    Raises:
        StageError: the archive is damaged, or unpacks to too much.
    """
    scratch = Path(ROOT, "scratch")
    scratch.mkdir(exist_ok=True)
    for left in scratch.glob(f"{FOLDER}*"):  # by a process that was killed
        if not psutil.pid_exists(int(left.name.split("-")[1])):
            files.remove(left)
    folder = tempfile.TemporaryDirectory(prefix=f"{FOLDER}{os.getpid()}-", dir=scratch)
    left_bytes = max(MAX_RATIO * path.stat().st_size, SMALL_BYTES)
    where = str(path)
    with ExitStack() as stack:
        try:
            for name, size, reason, open_member in _members(path, stack):
                where, target = f"{path}, {name!r}", Path(folder.name, name)
                if is_left_behind(name):
                    ignored.append(name)
                elif reason := reason or unusable_name(name) or "is there twice" * target.is_file():
                    problems.append(f"{where}: {reason}")
                elif name.endswith("/"):  # a folder, perhaps of a class without images
                    target.mkdir(parents=True, exist_ok=True)
                elif (left_bytes := left_bytes - size) < 0:
                    raise StageError(f"{path}: unpacks to {MAX_RATIO} times its size or more; unpack it yourself")
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with open_member() as source:
                        target.write_bytes(source.read())
        except UNREADABLE as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise StageError(f"{where}: not a readable archive: {why}") from None
    return folder


def _members(path: Path, stack: ExitStack) -> Iterator[Member]:
    """The files in an archive, with ``/`` in their names."""
    if path.name.lower().endswith(".zip"):
        try:
            archive = zipfile.ZipFile(path, metadata_encoding="utf-8")  # of names without a mark of their encoding
        except UnicodeDecodeError:
            archive = zipfile.ZipFile(path)
        stack.enter_context(archive)
        for entry in archive.infolist():
            reason = "a link; pack the file itself" if stat.S_ISLNK(entry.external_attr >> 16) else ""
            if entry.flag_bits & 1:
                reason = "encrypted; unpack the archive and pack it without a password"
            yield entry.filename, entry.file_size, reason, partial(archive.open, entry)
    else:
        packed = stack.enter_context(tarfile.open(path))  # noqa: SIM115
        for member in packed:
            reason = "" if member.isreg() or member.isdir() else "not a regular file"
            if member.islnk() or member.issparse():
                reason = f"pack it with tar {'--hard-dereference' if member.islnk() else 'without --sparse'}"
            name = member.name.removeprefix("./") + "/" * member.isdir()
            yield name, member.size, reason, partial(packed.extractfile, member)
