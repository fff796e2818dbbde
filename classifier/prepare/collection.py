"""Labeled images of a person's own: what is an image, and what are its class and split.

The layouts are those of the table in docs/own-data.md; what is none of them is refused.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from classifier.config.schema import Annotate
from classifier.data import info as dataset_info
from classifier.errors import StageError, shorten
from classifier.prepare import file_tree, idx, tables
from classifier.prepare.file_tree import FileTree
from classifier.prepare.splits import split_of

import numpy as np
import pandas as pd
from PIL import Image

IMAGE_SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
# Files that people leave beside images, and that are no image without a word.
TEXT_SUFFIXES = {".txt", ".md", ".json", ".yaml", ".yml", ".html", ".pdf", ".dvc", ".cff", ".xml", ".py", ".sh"}
# Folders of a kind of files: beside each other they are no classes.
KINDS = {"images", "imgs", "annotations", "labels", "masks", "segmentations", "metadata"}
INFO = "dataset_info.json"
COLUMNS = ["image", "class_name", "split", "group"]


@dataclass
class Collection:
    """Labeled images.

    Attributes:
        rows: one row an image: ``image`` (a unique name), ``class_name``, ``split`` (empty where none is given),
            ``group`` (empty where there is none).
        read: an image by the value in ``image``: the content of its file, or its pixels, ``(H, W[, 3]) uint8``.
        notes: how the set was read, a line each.
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
    """The labeled images at a path: a folder, an archive or a table. A built-in set has no class names in its files.

    The problems get a line with file or row for all that cannot be used.

    Raises:
        StageError: nothing lies there, or it has none of the layouts.
    """
    if path.is_file() and tables.is_table(path.name):
        whole = FileTree(path, path.parent, [path.name])
    elif path.exists() and not path.is_dir() and not file_tree.is_archive(path):
        kinds = ", ".join((*file_tree.ARCHIVES, *tables.SUFFIXES))
        raise StageError(f"{path}: neither a folder nor a file that ends in {kinds}")
    else:
        whole = file_tree.open_tree(path)
    problems += whole.problems
    tree = whole.below_common_folder(lambda name: _is_image(name) or tables.is_table(name) or idx.is_idx(name))
    raw = [name for name in tree.names if idx.is_idx(name)]
    found = _choose_tables(path, [name for name in tree.names if tables.is_table(name)], options, bool(raw))
    if found:
        collection = _from_tables(tree, found, options, problems)
    elif raw:
        try:
            rows, pixels = idx.read(tree, raw, class_names)
        except StageError as error:
            advice = "; `dvc repro --force download` fetches it again" if class_names else ""
            raise StageError(f"{error}{advice}") from None
        problems += [f"{path}, {name!r}: an image beside IDX files" for name in tree.names if _is_image(name)]
        collection = Collection(rows, pixels.__getitem__, ["IDX files"])
    else:
        collection = _from_folders(tree, problems)
    collection.info = _info(path, tree if INFO in tree.names else whole)
    if tree.ignored:
        first = sorted(tree.ignored, key=lambda name: not name.endswith("/"))  # folders, which may have been classes
        collection.notes.append(f"left out by name, as in .dvcignore: {shorten(first)}")
    return collection


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _info(path: Path, tree: FileTree) -> dict[str, str]:
    """The person's own ``dataset_info.json``, or the name alone."""
    if INFO not in tree.names:
        return {"name": path.name.partition(".")[0], "license": "unknown", "model_author": "unknown"}
    return {"model_author": "unknown", **dataset_info.parse(tree.read(INFO), f"{path}, {INFO!r}")}


# --- folders --------------------------------------------------------------------------------------------------------


def _from_folders(tree: FileTree, problems: list[str]) -> Collection:
    images = [PurePosixPath(name).parts for name in tree.names if _is_image(name)]
    in_splits = _all_or_none(tree, {parts[0]: split_of(parts[0]) for parts in images if len(parts) > 1})
    subfolders = [PurePosixPath(name).parts for name in tree.folders]
    # Of each path, which part is the class: below the folder of a split, which may be doubled: seg_train/seg_train.
    depths = {parts: 0 if not in_splits else 2 if parts[:1] == parts[1:2] else 1 for parts in [*images, *subfolders]}
    placed = {parts: folders for parts in images if (folders := parts[depths[parts] : -1])}
    splits = {parts: split_of(parts[0] if in_splits else "".join(folders[1:2])) for parts, folders in placed.items()}
    in_classes = not in_splits and _all_or_none(tree, {"/".join(parts[:2]): split for parts, split in splits.items()})
    rows = [("/".join(parts), folders[0], splits[parts], "") for parts, folders in placed.items()]
    classes = {folders[0] for folders in placed.values()}
    for parts, (class_name, *inner) in placed.items():
        copy = next((name for name in inner[:1] if name in classes - {class_name}), "")
        if copy or (in_splits and split_of(class_name)):
            raise StageError(
                f"{tree.path}, {'/'.join(parts)!r}: the folder {(copy or class_name)!r} is named like a class or split "
                "beside it; remove it if it is a copy, or move its files"
            )
    if kinds := sorted(name for name in classes if len(classes) > 1 and name.lower() in KINDS):
        raise StageError(
            f"{tree.path}: {kinds[0]!r} beside {shorten(sorted(classes - {kinds[0]}))} is the name of a kind of files, "
            "not of a class; keep only the folder of the images, or rename it"
        )
    problems += _not_images(tree)
    loose: dict[tuple[str, ...], list[str]] = {}
    for parts in sorted({*images} - placed.keys()):
        loose.setdefault(parts[:-1], []).append("/".join(parts))
    for names in loose.values():
        problems.append(f"{tree.path}, {shorten(map(repr, names))}: in no folder of a class")
    empty = {*subfolders} - {parts[: depths[parts] + 1] for parts in images}
    empty_names = sorted("/".join(parts) for parts in empty if len(parts) == depths[parts] + 1)
    problems += [f"{tree.path}, {name!r}: a folder of a class without images" for name in empty_names]
    if not rows:
        reason = f"{problems[0]}; " if problems else ""
        layouts = "put the images into a folder for each class, or add a table with their names"
        raise StageError(f"{tree.path}: has no labeled image: {reason}{layouts}")
    note = f"{'folders of splits with ' * in_splits}folders of classes{' with folders of splits' * in_classes}"
    below = [{folders[1] for folders in placed.values() if folders[:-1] and folders[0] == name} for name in classes]
    notes = [note]
    if len(below) > 1 and len(below[0]) > 1 and below.count(below[0]) == len(below) and not in_classes:
        notes.append(f"each class has the folders {shorten(sorted(below[0]))}; if these are the classes, move them up")
    return Collection(pd.DataFrame(rows, columns=COLUMNS), tree.read, notes)


def _all_or_none(tree: FileTree, splits: dict[str, str]) -> bool:
    """Whether the folders or files name a split: all or none."""
    named, others = ([name for name in splits if bool(splits[name]) == is_split] for is_split in (True, False))
    if named and others:
        raise StageError(
            f"{tree.path}: splits ({shorten(sorted(named))}) beside others ({shorten(sorted(others))}); "
            "move or remove the ones, or rename the folders of a class"
        )
    return bool(named)


def _not_images(tree: FileTree) -> list[str]:
    lines = []
    for path in map(PurePosixPath, tree.names):
        if not _is_image(path.name) and not tables.is_table(path.name) and path.suffix.lower() not in TEXT_SUFFIXES:
            kind = "an archive in it; unpack it" if file_tree.is_archive(path) else "not the name of an image file"
            lines.append(f"{tree.path}, {str(path)!r}: {kind}")
    return lines


# --- tables ---------------------------------------------------------------------------------------------------------


def _choose_tables(path: Path, names: list[str], options: Annotate, has_idx: bool) -> list[str]:
    """The table that the params name, the only one, or one for each split."""
    if options.table == "none":
        return []
    if options.table != "auto":
        if options.table in names:
            return [options.table]
        raise StageError(f"{path}: has no table {options.table!r}, which annotate.table names; it has {shorten(names)}")
    of_splits = all(map(_split_of_table, names)) and len({PurePosixPath(name).suffix for name in names}) == 1
    if names and (has_idx or (len(names) > 1 and not of_splits)):
        advice = "remove others, or name one: annotate.table, or none for IDX files or folders"
        raise StageError(f"{path}: has several tables{', or IDX files' * has_idx}: {shorten(names)}; {advice}")
    return names


def _split_of_table(name: str) -> str:
    """The split of ``train.csv``, ``train/metadata.csv`` or ``data/train-00000-of-00001.parquet``; empty for others."""
    path = PurePosixPath(name)
    return split_of(path.stem) or split_of(path.parent.name)


def _from_tables(tree: FileTree, names: list[str], options: Annotate, problems: list[str]) -> Collection:
    parts: list[pd.DataFrame] = []
    notes: list[str] = []
    contents: dict[str, bytes | np.ndarray] = {}
    images = [name for name in tree.names if _is_image(name)]
    for name in names:
        where = str(tree.path if tree.path.name == name else f"{tree.path}, {name!r}")
        table = tables.read(where, name, tree.read(name), options)
        rows = table.rows
        problems += table.problems
        if len(names) > 1 and not (rows["split"] != "").any():
            rows["split"] = _split_of_table(name)
        if table.contents:
            contents |= dict(zip(rows["image"], table.contents, strict=True))
        else:
            rows["image"] = _find_files(where, rows, images, PurePosixPath(name).parent, problems)
        notes += [table.note] * (table.note not in notes)
        parts.append(rows[rows["image"] != ""])
    rows = pd.concat(parts, ignore_index=True)
    problems += _twice(tree.path, rows)
    if unused := sorted(set(images) - set(rows["image"])):
        problems.append(f"{tree.path}: no row of a table names {shorten(unused)}")
    rows = rows.drop_duplicates("image", keep=False)
    if rows.empty:
        advice = "if that table has no labels, annotate.table names another, or none for folders"
        raise StageError(f"{tree.path}: no row names an image: {problems[0]}; {advice}")
    reader = contents.__getitem__ if contents else tree.read
    return Collection(rows[COLUMNS].reset_index(drop=True), reader, notes)


def _find_files(
    where: str, rows: pd.DataFrame, images: list[str], folder: PurePosixPath, problems: list[str]
) -> list[str]:
    """The file of each row, with or without its suffix: below the table's folder, or in the only folder of images."""
    by_name: dict[str, list[str]] = {}
    for name in images:
        for key in (name, name.removesuffix(PurePosixPath(name).suffix)):
            by_name.setdefault(key, []).append(name)
    folders = {PurePosixPath(name).parent for name in images}
    places = [folder, *folders] if len(folders) == 1 else [folder]
    found = []
    for number, written in zip(rows["line"], rows["image"], strict=True):
        named = (by_name.get(str(place / written.replace("\\", "/")), []) for place in places)
        candidates = next(filter(None, named), [])
        found.append(candidates[0] if len(candidates) == 1 else "")
        if len(candidates) != 1:
            kind = f"{len(candidates)} files have this name" if candidates else "there is no such file"
            kind += "; names are relative to the table, or to the folder of the images: move all images into one"
            problems.append(f"{where}, row {number}: image {written!r:.99}: {kind}")
    return found


def _twice(path: Path, rows: pd.DataFrame) -> list[str]:
    doubles = rows[rows["image"].duplicated(keep=False)]
    return [
        f"{path}: rows {', '.join(map(str, of_image['line']))} are all of the image {name!r}"
        + (f", as {shorten(of_image['class_name'].unique())}" if of_image["class_name"].nunique() > 1 else "")
        for name, of_image in doubles.groupby("image")
    ]
