"""The files below a folder by name; an archive becomes a folder first."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from classifier.errors import StageError
from classifier.prepare import archive
from classifier.runner.files import is_left_behind


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
        tree.kept = archive.unpack(path, tree.problems, tree.ignored)
        tree.root = Path(tree.kept.name)
    tree.names = list(_walk(tree, tree.root))
    return tree


def _walk(tree: FileTree, folder: Path) -> Iterator[str]:
    if (folder / ".dvc").is_dir():
        raise StageError(f"{folder}: is a DVC repository, whose files `dvc add` leaves out; remove {folder}/.dvc")
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        tree.problems.append(f"{folder}: {error.strerror}")
        return
    for entry in entries:
        name = Path(entry.path).relative_to(tree.root).as_posix()
        if is_left_behind(name):
            tree.ignored.append(f"{name}/" if entry.is_dir() else name)
        elif entry.is_symlink() and os.path.isdir(entry):
            tree.problems.append(f"{tree.path / name}: a link to a folder, which DVC does not follow; copy the folder")
        elif entry.is_dir(follow_symlinks=False):
            tree.folders.append(name)
            yield from _walk(tree, Path(entry.path))
        elif not os.path.isfile(entry):
            kind = (
                "a link to a missing file, which stops `dvc add`; remove it"
                if entry.is_symlink()
                else "no regular file"
            )
            tree.problems.append(f"{tree.path / name}: {kind}")
        elif reason := archive.unusable_name(name):
            tree.problems.append(f"{tree.path}, {name!r}: {reason}")
        else:
            yield name
