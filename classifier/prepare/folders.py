"""Images in folders: which folder is the class, and which the split."""

from pathlib import PurePosixPath

from classifier.errors import StageError, shorten
from classifier.prepare import file_tree, tables
from classifier.prepare.file_tree import FileTree, is_image
from classifier.prepare.splits import split_of

import pandas as pd

# Files that people leave beside images, and that are no image without a word.
TEXT_SUFFIXES = {".txt", ".md", ".json", ".yaml", ".yml", ".html", ".pdf", ".dvc", ".cff", ".xml", ".py", ".sh"}
# Folders of a kind of files: beside each other they are no classes.
KINDS = {"images", "imgs", "annotations", "labels", "masks", "segmentations", "metadata"}


def read(tree: FileTree, problems: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a ``Collection``, and how the folders were read.

    Raises:
        StageError: they have none of the layouts.
    """
    images = [tuple(name.split("/")) for name in tree.names if is_image(name)]
    in_splits = _all_or_none(tree, {parts[0]: split_of(parts[0]) for parts in images if len(parts) > 1})
    subfolders = [tuple(name.split("/")) for name in tree.folders]
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
    loose = sorted("/".join(parts) for parts in {*images} - placed.keys())
    problems += [f"{tree.path}, {name!r}: in no folder of a class" for name in loose]
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
    return pd.DataFrame(rows, columns=["image", "class_name", "split", "group"]), notes


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
    for path in (PurePosixPath(name) for name in tree.names if not is_image(name)):
        if not tables.is_table(path.name) and path.suffix.lower() not in TEXT_SUFFIXES:
            kind = "an archive in it; unpack it" if file_tree.is_archive(path) else "not the name of an image file"
            lines.append(f"{tree.path}, {str(path)!r}: {kind}")
    return lines
