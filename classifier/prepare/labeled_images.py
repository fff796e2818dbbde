"""Images made ready, built-in ones or a person's own: which can be used, at what size, in which classes and splits."""

import contextlib
import hashlib
import itertools
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from classifier.config.schema import Annotate
from classifier.data import images, preprocessing
from classifier.data.images import Content
from classifier.data.preprocessing import Preprocessing
from classifier.engines import map_processes
from classifier.errors import StageError, shorten
from classifier.prepare import collection, splits
from classifier.prepare.collection import Collection, natural_key
from classifier.progress import progress_bar
from classifier.runner.stat_cache import StatCache
from classifier.threads import count_cores, map_ahead

import numpy as np
import pandas as pd

LARGEST, SMALLEST = 64, 16  # pixels, of a side that is chosen from the data: what the default network takes in minutes
AHEAD = 64  # images that are decoded before they are asked for
FOR_PROCESSES = 10_000  # images; fewer are done before other processes have loaded their libraries
LOOKED = 64  # images that a process or thread looks at before it answers


@dataclass
class LabeledImages:
    """Images that can be used, with all that follows from them.

    Attributes:
        rows: ``image`` (the name in its shard), ``source``, ``label``, ``class_name``, ``split``,
            ``group``; those of the test split last.
        class_names: of classes 0, 1, ..., in natural order.
        preprocessing: how an image becomes pixels.
        collection: where they come from.
        notes: what was taken for what, and chosen, a line each.
        problems: what cannot be used, a line each.
    """

    rows: pd.DataFrame
    class_names: list[str]
    preprocessing: Preprocessing
    collection: Collection
    notes: list[str]
    problems: list[str]

    def contents(self, places: np.ndarray) -> list[tuple[str, Content, str]]:
        """The images at some places of ``rows``: the name of its source, content, and digest of that."""
        rows = self.rows.iloc[places]
        pairs = zip(rows["source"], rows["content"], strict=True)
        return [(source, self.collection.find(source), digest) for source, digest in pairs]

    def decode(self) -> Iterator[np.ndarray | StageError]:
        """The pixels of all images, in the order of ``rows``, or why there are none."""
        contents = self.contents(np.arange(len(self.rows)))
        decoded = decode(self.preprocessing, contents, count_cores())
        yield from progress_bar(decoded, "decoding images", total=len(contents))


def decode(
    how: Preprocessing, contents: Iterable[tuple[str, Content, str]], threads: int
) -> Iterator[np.ndarray | StageError]:
    """The pixels of each image, ``(C, H, W) uint8``, or why there are none.

    Raises:
        StageError: an image has changed since its digest was made.
        OSError: its file cannot be read any more.
    """

    def one(image: tuple[str, Content, str]) -> np.ndarray | StageError:
        source, content, digest = image
        content = content.read_bytes() if isinstance(content, Path) else content
        if _digest(content) != digest:
            raise StageError(f"{source} changed while the stage ran; run it again")
        try:
            return how(content, source)
        except StageError as error:
            return error

    return (result for _, result in map_ahead(one, contents, threads, AHEAD))


def processes_for(count: int) -> int:
    """How many processes are to work on so many images."""
    return count_cores() if count >= FOR_PROCESSES else 1


def _digest(content: bytes | np.ndarray) -> str:
    raw = content.tobytes() if isinstance(content, np.ndarray) else content
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def load(
    path: Path,
    options: Annotate,
    problems: list[str] | None = None,
    class_names: Sequence[str] = (),
    memory: Path | None = None,
) -> LabeledImages:
    """Look at a folder, archive or table, and at the head of each image file.

    Whoever wants to know the problems even if too little is left hands in their list. Class names are those of a
    built-in set. The memory is a folder for what was seen in each file.

    Raises:
        StageError: there are no usable images, only one class, or nothing to test with.
    """
    problems = [] if problems is None else problems
    found = collection.read(path, options, problems, class_names)
    seen = StatCache(memory / f"seen-{options.max_megapixels!r}") if memory else None
    rows = _look(found, str(path), options.max_megapixels, problems, seen)
    if seen:
        seen.save()
    if rows.empty:
        raise StageError(f"{path}: no usable image: {problems[0] if problems else 'it is empty'}")
    class_names = class_names or sorted(rows["class_name"].unique(), key=natural_key)
    if len(class_names) < 2:
        raise StageError(f"{path}: has one class only, {class_names[0]!r}; a classifier needs two")
    how, note = _choose(rows, options)
    rows["label"] = rows["class_name"].map({name: label for label, name in enumerate(class_names)})
    drawn = splits.complete(rows, options)
    if drawn and (copies := int(rows["content"].duplicated().sum())):
        drawn.append(f"copies of other files: {copies:,}; they stay in one drawn split")
    rows["source"] = rows["image"]
    stems = rows["source"].map(lambda name: os.path.splitext(name)[0])
    doubled = stems.duplicated().groupby(stems.map(os.path.dirname)).transform("any")  # x.gif beside x.jpg
    rows["image"] = stems.where(~doubled, rows["source"]) + ".png"
    rows = rows.sort_values("split", key=lambda values: values == "test", kind="stable").reset_index(drop=True)
    return LabeledImages(rows, [*class_names], how, found, [*found.notes, note, *drawn], problems)


def _look(
    found: Collection, where: str, max_megapixels: float, problems: list[str], seen: StatCache | None
) -> pd.DataFrame:
    """The rows of the images that can be opened, with ``is_gray``, ``width``, ``height`` and ``content``, a digest."""
    names, looks = found.rows["image"].tolist(), []
    states: dict[int, tuple[Path, list[int]]] = {}  # of new files
    for place, name in enumerate(names):
        content, look = found.find(name), None
        if seen and isinstance(content, Path):
            with contextlib.suppress(OSError):  # said when it is read
                state, look = seen.recall(content)
                if look is None:
                    states[place] = content, state
        looks.append(look and tuple(look))
    new = [place for place, look in enumerate(looks) if look is None]
    tasks = (
        (max_megapixels, [found.find(names[place]) for place in new[first : first + LOOKED]])
        for first in range(0, len(new), LOOKED)
    )
    if (processes := processes_for(len(new))) > 1:
        looked = map_processes(_look_at, tasks, processes)
    else:  # threads wait for each other where files are small, but not where they are large
        looked = (result for _, result in map_ahead(_look_at, tasks, count_cores(), AHEAD))
    results = progress_bar(itertools.chain.from_iterable(looked), "looking at images", total=len(new))
    for place, look in zip(new, results, strict=True):
        if seen and place in states and not isinstance(look, str):
            seen.keep(*states[place], look)
        looks[place] = f"{where}, {names[place]!r}: {look}" if isinstance(look, str) else look
    problems += [look for look in looks if isinstance(look, str)]
    rows = found.rows[[not isinstance(look, str) for look in looks]].reset_index(drop=True)
    heads = [look for look in looks if not isinstance(look, str)]
    return rows.join(pd.DataFrame(heads, columns=["is_gray", "width", "height", "content"]))


def _look_at(task: tuple[float, list[Content]]) -> list[tuple[bool, int, int, str] | str]:
    """Whether images are gray, their sizes, and digests of their contents; or why there are none."""
    max_megapixels, contents = task
    looks: list[tuple[bool, int, int, str] | str] = []
    for content in contents:
        try:
            content = content.read_bytes() if isinstance(content, Path) else content
            image = images.open_image(content, max_megapixels)
            looks.append((preprocessing.is_gray(image), *preprocessing.upright_size(image), _digest(content)))
        except Exception as error:  # of Pillow's decoders or of the archive
            looks.append(images.reason(error))
    return looks


def _choose(rows: pd.DataFrame, options: Annotate) -> tuple[Preprocessing, str]:
    """Channels and size: as the params say, or from the data."""
    channels = (1 if rows["is_gray"].all() else 3) if options.channels == "auto" else options.channels
    sizes = {*zip(rows["width"], rows["height"], strict=True)}
    widths, heights = rows["width"], rows["height"]
    if options.size == "auto":
        width, height = int(widths.median()), int(heights.median())
        if len(sizes) > 1:
            width = height = max(width, height)
        factor = min(1.0, LARGEST / max(width, height)) * max(1.0, SMALLEST / min(width, height))
        width, height = (max(SMALLEST, min(LARGEST, round(side * factor))) for side in (width, height))
    else:
        height, width = options.size
    they = f"{widths.min()} to {widths.max()} wide and {heights.min()} to {heights.max()} high"
    if len(sizes) == 1:
        they = f"{widths[0]}x{heights[0]}"
    note = f"{'grayscale' if channels == 1 else 'RGB'}, {width}x{height} pixels (the images are {they})"
    if {(width, height)} != sizes:
        note += f", fit: {options.fit}"
    return Preprocessing(channels, height, width, options.fit, options.background, options.max_megapixels), note


def thin_classes(rows: pd.DataFrame, class_names: list[str]) -> list[str]:
    """Classes that look like a mistake, or are too thin to be learned or measured well, a line each.

    Raises:
        StageError: a class has no training image, or there is no test image.
    """
    lines = []
    keys = [unicodedata.normalize("NFC", name.casefold()) for name in class_names]
    if alike := [" and ".join(names) for _, names in pd.Series(class_names).groupby(keys) if len(names) > 1]:
        lines.append(f"classes whose names differ in case or Unicode form only: {shorten(alike)}")
    by_split = {split: set(of_split["class_name"]) for split, of_split in rows.groupby("split")}
    absent = [name for name in class_names if name not in by_split.get("train", set())]
    if absent:
        raise StageError(f"no training image of the class {shorten(absent)}; add some, or leave the class out")
    counts = rows[rows["split"] == "train"]["class_name"].value_counts()
    if rare := [name for name in class_names if counts[name] == 1]:
        lines.append(f"one training image only: {shorten(rare)}")
    if untested := [name for name in class_names if name not in by_split.get("test", set())]:
        lines.append(f"no test image, so nothing is known about them: {shorten(untested)}")
    if not (tests := int((rows["split"] == "test").sum())):
        raise StageError("no test image can be decoded; add some")
    if tests < 100:
        lines.append(f"the test split has {tests} images: its accuracy is uncertain by up to {1 / tests**0.5:.0%}")
    return lines
