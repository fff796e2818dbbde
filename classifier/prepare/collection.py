"""Labeled images of a person's own, in whatever form they come: what is an image, and what are its class and split.

The forms: a folder for each class, with or without folders for the splits; a table with names of image files, with
images as bytes, or with pixels; IDX files. Each in a folder or in an archive.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from classifier.config.schema import Annotate
from classifier.data import info as dataset_info
from classifier.errors import StageError, shorten
from classifier.prepare import archive, file_tree, idx, tables
from classifier.prepare.file_tree import FileTree
from classifier.prepare.splits import SPLIT_WORDS

import numpy as np
import pandas as pd

IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".pbm", ".pnm", ".tga", ".ico", ".jp2", ".avif", ".apng", ".pcx", ".sgi", ".qoi", ".dds", ".xbm", ".xpm"),
}
# Files that people leave beside images, and that are no image without a word.
TEXT_SUFFIXES = {".txt", ".md", ".json", ".yaml", ".yml", ".html", ".pdf", ".dvc", ".cff", ".xml", ".py", ".sh"}
INFO = "dataset_info.json"


@dataclass
class Collection:
    """Labeled images.

    Attributes:
        rows: one row an image: ``image`` (a unique name), ``class_name``, ``split`` (empty where none is given),
            ``group`` (empty where there is none).
        read: an image by the value in ``image``: the content of its file, or its pixels, ``(H, W[, 3]) uint8``.
        notes: what was taken for what, a line each.
        info: name, license and more, for the exported model.
    """

    rows: pd.DataFrame
    read: Callable[[str], bytes | np.ndarray]
    notes: list[str]
    info: dict[str, str] = field(default_factory=dict)


def natural_key(text: str) -> tuple[Any, ...]:
    """Sorts 2 before 10, and is the same for every process."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)), text


def read(path: Path, options: Annotate, problems: list[str], class_names: Sequence[str] = ()) -> Collection:
    """The labeled images at a path: a folder, an archive or a table.

    Args:
        path: of it.
        options: the section ``annotate`` of params.yaml.
        problems: gets a line with file or row for all that cannot be used.
        class_names: of classes 0, 1, ... of a built-in set, which are not in its files.

    Raises:
        StageError: nothing lies there, or it has no labels.
    """
    if path.is_file() and tables.is_table(path.name):
        tree = FileTree(path, path.parent, [path.name])
        collection = _from_tables(path, tree, [path.name], options, problems)
        collection.info = _info(path, tree)
        return collection
    if path.exists() and not path.is_dir() and not archive.is_archive(path):
        kinds = ", ".join((*archive.SUFFIXES, *tables.SUFFIXES))
        raise StageError(f"{path}: neither a folder nor a file that ends in {kinds}")
    tree = file_tree.open_tree(path).strip_common_folder()
    problems += tree.problems
    found = [name for name in tree.names if tables.is_table(name)]
    raw = [name for name in tree.names if idx.is_idx(name)]
    if found:
        collection = _from_tables(path, tree, found, options, problems)
    elif raw:
        try:
            rows, pixels = idx.read(tree, raw, class_names)
        except StageError as error:
            advice = "; `dvc repro --force download` fetches it again" if class_names else ""
            raise StageError(f"{error}{advice}") from None
        collection = Collection(rows, pixels.__getitem__, ["IDX files"])
    else:
        collection = _from_folders(path, tree, problems)
    collection.info = _info(path, tree)
    if tree.ignored:
        collection.notes.append(f"left out by name, as in .dvcignore: {shorten(tree.ignored)}")
    return collection


def _info(path: Path, tree: FileTree) -> dict[str, str]:
    """The person's own ``dataset_info.json``, or the name alone."""
    name = next((name for name in tree.names if name == INFO), None)
    if name is None:
        return {"name": path.name.partition(".")[0], "license": "unknown", "model_author": "unknown"}
    return {"model_author": "unknown", **dataset_info.parse(tree.read(name), f"{path}, {name!r}")}


# --- a folder for each class ----------------------------------------------------------------------------------------


def _from_folders(path: Path, tree: FileTree, problems: list[str]) -> Collection:
    names = []
    for name in tree.names:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            names.append(name)
        elif name != INFO and suffix not in TEXT_SUFFIXES:
            problems.append(f"{path}, {name!r}: not the name of an image file")
    in_splits = _has_split_folders(names)
    rows = []
    for name in names:
        *folders, _ = name.split("/")
        split = ""
        if in_splits and folders:
            split, *folders = SPLIT_WORDS[folders[0].lower()], *folders[1:]
        elif len(folders) > 1 and folders[1].lower() in SPLIT_WORDS:
            split = SPLIT_WORDS[folders[1].lower()]
        if folders:
            rows.append((name, folders[0], split, ""))
        else:
            problems.append(f"{path}, {name!r}: is in no folder of a class")
    if not rows:
        raise StageError(
            f"{path}: has no labels: put the images into a folder for each class, or add a table with their names"
        )
    frame = pd.DataFrame(rows, columns=["image", "class_name", "split", "group"])
    note = "a folder for each class" + (", in folders for the splits" if (frame["split"] != "").any() else "")
    return Collection(frame, tree.read, [note])


def _has_split_folders(names: Iterable[str]) -> bool:
    """Whether the first folders are those of splits."""
    first = {name.partition("/")[0].lower() for name in names if "/" in name}
    return bool(first) and first <= SPLIT_WORDS.keys()


# --- tables ---------------------------------------------------------------------------------------------------------


def _from_tables(path: Path, tree: FileTree, names: list[str], options: Annotate, problems: list[str]) -> Collection:
    parts, notes = [], []
    pixels: dict[str, bytes | np.ndarray] = {}
    of_splits = len(names) > 1 or "/" in names[0]
    files = [name for name in tree.names if not tables.is_table(name) and name != INFO]
    used: set[str] = set()
    for name in names:
        where = str(path if tables.is_table(path.name) else f"{path}, {name!r}")
        table = tables.read(where, name, tree.read(name), options, files)
        rows = table.rows
        if of_splits and not (rows["split"] != "").any():
            rows["split"] = _split_of_table(name)
        if table.contents is None:
            folder = name.rpartition("/")[0]
            rows["image"] = _find_files(where, rows, files, folder, problems)
            rows = rows[rows["image"] != ""]
            used |= set(rows["image"])
        else:
            pixels |= dict(zip(rows["image"], table.contents, strict=True))
        for note in table.notes:
            if note not in notes:
                notes.append(note)
        problems += table.problems
        parts.append(rows)
    rows = pd.concat(parts, ignore_index=True)
    problems += _twice(path, rows)
    rows = rows.drop_duplicates("image", keep=False)
    if not pixels:
        unused = [n for n in files if n not in used and PurePosixPath(n).suffix.lower() in IMAGE_SUFFIXES]
        problems += [f"{path}, {name!r}: no row of the table names this image" for name in unused]
    if rows.empty:
        if path.is_file() and tables.is_table(path.name):
            raise StageError(f"{path}: names image files; put it into a folder of data/own/ together with them")
        raise StageError(f"{path}: no row names an image: {problems[0] if problems else 'the table is empty'}")
    reader = pixels.__getitem__ if pixels else tree.read
    return Collection(rows[["image", "class_name", "split", "group"]].reset_index(drop=True), reader, notes)


def _split_of_table(name: str) -> str:
    """The split of ``train.csv``, ``train/metadata.csv`` or ``data/train-00000-of-00001.parquet``; empty for others."""
    for part in reversed(name.lower().split("/")):
        word = re.split(r"[-_.]", part)[0]
        if word in SPLIT_WORDS:
            return SPLIT_WORDS[word]
    return ""


def _find_files(where: str, rows: pd.DataFrame, files: list[str], folder: str, problems: list[str]) -> list[str]:
    """The file of each row: as it is written, below the table's folder, by its last part, or without its suffix."""
    known = set(files)
    by_name: dict[str, list[str]] = {}
    for name in files:
        path = PurePosixPath(name)
        for key in {path.name, path.stem}:
            by_name.setdefault(key, []).append(name)
    found = []
    for number, written in zip(rows["line"], rows["image"], strict=True):
        name = str(PurePosixPath(written.replace("\\", "/").removeprefix("./")))
        below = f"{folder}/{name}" if folder else name
        last = by_name.get(PurePosixPath(name).name, [])
        near = [each for each in last if each.startswith(f"{folder}/")] if folder else last
        candidates = [below] if below in known else [name] if name in known else (near or last)
        if len(candidates) == 1:
            found.append(candidates[0])
            continue
        found.append("")
        kind = f"{len(candidates)} files have this name" if candidates else "there is no such file"
        problems.append(f"{where}, row {number}: image {written!r}: {kind}")
    return found


def _twice(path: Path, rows: pd.DataFrame) -> list[str]:
    doubles = rows[rows["image"].duplicated(keep=False)]
    return [
        f"{path}: rows {', '.join(map(str, of_image['line']))} are all of the image {name!r}"
        + (f", as {shorten(of_image['class_name'].unique())}" if of_image["class_name"].nunique() > 1 else "")
        for name, of_image in doubles.groupby("image")
    ]
