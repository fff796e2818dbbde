"""An archive of images is unpacked to a folder in scratch/, which goes with the process that made it."""

import os
import re
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePath

from classifier import ROOT
from classifier.errors import StageError
from classifier.runner import files

import psutil

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_RATIO = 200  # unpacked to packed bytes; photographs have about 1, drawings 20; more is a bomb
SMALL_BYTES = 1 << 26  # that may be unpacked whatever the ratio
OUTSIDE = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)")
UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RuntimeError)
FOLDER = "unpacked-"  # begins the name of a folder in scratch/; then the process that made it


def is_archive(path: PurePath) -> bool:
    """Whether the name is that of an archive that ``unpack`` takes."""
    return path.name.lower().endswith(SUFFIXES)


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
