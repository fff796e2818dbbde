"""The files below a folder by name; an archive becomes a folder first."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from classifier.errors import StageError
from classifier.prepare import archive
from classifier.runner.files import is_left_behind

UNUSABLE = {
    r"[\ud800-\udfff]": "the name is not UTF-8; rename it",
    r"\\": "the name has a backslash; rename it",
    r"[\x00-\x1f\x7f]": "the name has a character that cannot be used; rename it",
    r"(^|/)\s|\s(/|$)": "a name begins or ends with a blank; rename it",
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
        tree.kept = archive.unpack(path)
        tree.root = Path(tree.kept.name)
    tree.names = list(_walk(tree, tree.root))
    return tree


def _walk(tree: FileTree, folder: Path) -> Iterator[str]:
    if (folder / ".dvc").is_dir():
        raise StageError(f"{folder}: is a DVC repository, whose files `dvc add` leaves out; remove {folder}/.dvc")
    for entry in sorted(folder.iterdir()):
        name = entry.relative_to(tree.root).as_posix()
        if is_left_behind(name):
            tree.ignored.append(f"{name}/" if entry.is_dir() else name)
        elif reason := _unusable(entry, name):
            tree.problems.append(f"{tree.path}, {name!r}: {reason}")
        elif entry.is_dir():
            tree.folders.append(name)
            yield from _walk(tree, entry)
        else:
            yield name


def _unusable(entry: Path, name: str) -> str:
    """Why a file or folder cannot be used; empty if it can."""
    if entry.is_symlink() and entry.is_dir():
        return "a link to a folder, which DVC does not follow; copy the folder"
    if entry.is_symlink() and not entry.exists():
        return "a link to a missing file, which stops `dvc add`; remove it"
    if not entry.is_dir() and not entry.is_file():
        return "no regular file"
    return "" if entry.is_dir() else next((reason for bad, reason in UNUSABLE.items() if re.search(bad, name)), "")
