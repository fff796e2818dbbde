"""Labeled images of a person's own: which files are images, and what are their classes and splits.

The layouts are those of the table in docs/own-data.md; what is none of them is refused.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from classifier.config.schema import Annotate
from classifier.data.images import Content
from classifier.errors import StageError, shorten
from classifier.prepare import file_tree, folders, idx, tables
from classifier.prepare.file_tree import FileTree, is_image
from classifier.prepare.splits import split_of

import pandas as pd

INFO = "dataset_info.json"
COLUMNS = ["image", "class_name", "split", "group"]


@dataclass
class Collection:
    """Labeled images.

    Attributes:
        rows: one row an image: ``image`` (a unique name), ``class_name``, ``split`` (empty where none is given),
            ``group`` (empty where there is none).
        find: an image by the value in ``image``: its file, the content of a file, or pixels, ``(H, W[, 3]) uint8``.
        notes: how the set was read, a line each.
        info: name, license and more, for the exported model.
    """

    rows: pd.DataFrame
    find: Callable[[str], Content]
    notes: list[str]
    info: dict[str, str]


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
    tree = whole.below_common_folder(lambda name: is_image(name) or tables.is_table(name) or idx.is_idx(name))
    raw = [name for name in tree.names if idx.is_idx(name)]
    found = _choose_tables(path, [name for name in tree.names if tables.is_table(name)], options, bool(raw))
    contents: dict[str, Content | None] = {}  # of images that are not files
    get: Callable[[str], Content | None] = contents.get
    if found:
        rows, notes = _from_tables(tree, found, options, problems)
        contents |= zip(rows["image"], rows["content"], strict=True)
    elif raw:
        try:
            (rows, get), notes = idx.read(tree, raw, class_names), ["IDX files"]
        except StageError as error:
            advice = "; `dvc repro --force download` fetches it again" if class_names else ""
            raise StageError(f"{error}{advice}") from None
        problems += [f"{path}, {name!r}: an image beside IDX files" for name in tree.names if is_image(name)]
    else:
        rows, notes = folders.read(tree, problems)
    if tree.ignored:
        first = sorted(tree.ignored, key=lambda name: not name.endswith("/"))  # folders, which may have been classes
        notes.append(f"left out by name, as in .dvcignore: {shorten(first)}")

    def find(name: str) -> Content:
        content = get(name)
        return tree.root / name if content is None else content

    return Collection(rows[COLUMNS], find, notes, read_info(path, tree if INFO in tree.names else whole))


def read_info(path: Path, tree: FileTree) -> dict[str, str]:
    """The origin of the images, for the exported model: a person's own ``dataset_info.json``, or the name alone.

    ``name`` and ``license`` (an SPDX identifier, or ``unknown``), and optional entries such as ``homepage``, or
    ``model_author`` and ``model_license`` of the model that is made of them.

    Raises:
        StageError: the file is not a JSON object of strings, or has no name or license.
    """
    if INFO not in tree.names:
        return {"name": path.name.partition(".")[0], "license": "unknown", "model_author": "unknown"}
    where = f"{path}, {INFO!r}"
    try:
        info = json.loads(tree.read(INFO))
    except ValueError as error:  # not JSON, or not UTF-8
        raise StageError(f"{where}: not a JSON file: {error}") from None
    if not isinstance(info, dict) or not all(isinstance(value, str) for value in info.values()):
        example = '{"name": "My images", "license": "unknown"}'
        raise StageError(f"{where}: must be a JSON object of strings, such as {example}")
    for key in ("name", "license"):
        if not info.get(key, "").strip():
            raise StageError(f'{where}: has no "{key}"; write "unknown" if you do not know it')
    return {"model_author": "unknown", **info}


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


def _from_tables(
    tree: FileTree, names: list[str], options: Annotate, problems: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    parts: list[pd.DataFrame] = []
    notes: list[str] = []
    images = [name for name in tree.names if is_image(name)]
    for name in names:
        where = str(tree.path if tree.path.name == name else f"{tree.path}, {name!r}")
        rows, note = tables.read(where, name, tree.read(name), options, problems)
        if len(names) > 1 and not (rows["split"] != "").any():
            rows["split"] = _split_of_table(name)
        if rows["content"].isna().all():
            rows["image"] = _find_files(where, rows, images, PurePosixPath(name).parent, problems)
        notes += [note] * (note not in notes)
        parts.append(rows[rows["image"] != ""])
    rows = pd.concat(parts, ignore_index=True)
    problems += _twice(tree.path, rows)
    if unused := sorted(set(images) - set(rows["image"])):
        problems.append(f"{tree.path}: no row of a table names {shorten(unused)}")
    rows = rows.drop_duplicates("image", keep=False)
    if rows.empty:
        advice = "if that table has no labels, annotate.table names another, or none for folders"
        raise StageError(f"{tree.path}: no row names an image: {problems[0]}; {advice}")
    return rows.reset_index(drop=True), notes


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
