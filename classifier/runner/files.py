"""Hashing, and atomic writing: a reader, or a crash, sees the old file, the new one or none, never a part."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

LEFT_BEHIND = re.compile(r"(^|/)(\.(?!\.?(/|$))[^/]*|[^/]*~|__pycache__|__MACOSX|[Dd]esktop\.ini|[Tt]humbs\.db)(/|$)")


def iter_files(path: str | Path) -> Iterator[Path]:
    """The file itself, or every file below a folder, in an order that does not depend on the file system.

    What is left behind in a folder does not belong to it.
    """
    return map(Path, _iter_names(os.fspath(path)))


def _iter_names(path: str) -> Iterator[str]:  # a Path for each file would take as long as all the rest
    if not os.path.isdir(path):
        yield path
        return
    with os.scandir(path) as entries:  # knows what is a folder without a look at each file
        in_order = sorted(entries, key=lambda entry: entry.name)
    for entry in in_order:
        if is_left_behind(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _iter_names(entry.path)
        elif entry.is_file():
            yield entry.path


def is_left_behind(name: str) -> bool:
    """Whether editors, Python or operating systems leave a file or a folder around it, by its name with ``/``.

    .dvcignore has the same list: a file that a stage reads and DVC ignores would be missing in clones.
    """
    return LEFT_BEHIND.search(name) is not None


def digests(paths: Iterable[str | Path], of_file: Callable[[str], str] | None = None) -> dict[str, str]:
    """SHA-256 of every file that is, or is below, one of the paths; by its path, with /.

    Args:
        paths: of files and folders.
        of_file: what knows the digest of a file, instead of reading it.

    Raises:
        FileNotFoundError: one does not exist.
    """
    of_file = of_file or digest
    return {file: of_file(file) for path in paths for file in _iter_names(Path(path).as_posix())}


def digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        FileNotFoundError: it does not exist.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def temporary_path(path: Path) -> Path:
    """Where a file is written before it is published: same folder (a rename must not copy), same suffix."""
    return path.with_name(f".tmp.{path.name}")


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists. A hard link into DVC's cache loses only its name here."""
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path)
        except OSError as error:  # names no more than the last part of the path
            raise OSError(error.errno, error.strerror, str(path)) from None
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force one file, or the names in one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A hard link, or a copy on another file system."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file or folder its name, replacing what had it.

    The permissions are those of a plain ``open``; safetensors and tempfile leave 0600, which other users of a shared
    clone could not read.
    """
    umask = os.umask(0)
    os.umask(umask)
    for file in iter_files(temporary):
        if file.stat().st_nlink == 1:  # one with another name has its permissions, perhaps those of DVC's cache
            file.chmod(0o666 & ~umask)
        _sync(file)
    if temporary.is_dir():
        _sync(temporary)
        remove(path)  # a folder cannot replace one that has something in it
    os.replace(temporary, path)
    _sync(path.parent)  # the name is in the folder, not in the file


def atomic_write(path: Path, content: bytes) -> None:
    """Write a small file so that a reader, or a crash, sees the old content or the new.

    Raises:
        OSError: the disk is full or the folder read-only; the old content stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(content)
        publish(temporary, path)
    except BaseException as error:
        remove(temporary)
        if isinstance(error, OSError) and error.strerror and not error.filename:  # a full disk has no file name
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def remember(path: Path, content: bytes) -> None:
    """Write what spares work the next time, for ``recall``."""
    atomic_write(path, hashlib.sha256(content).digest() + content)


def recall(path: Path) -> bytes | None:
    """The content that ``remember`` wrote; None if there is none, or it is damaged."""
    try:
        written = path.read_bytes()
    except OSError:
        return None
    digest_size = hashlib.sha256().digest_size
    content = written[digest_size:]
    return content if hashlib.sha256(content).digest() == written[:digest_size] else None
