"""Writes the images of all splits in shards, and collects on the way what is reported about them."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from classifier.config.schema import Annotate
from classifier.data import images, shards
from classifier.data.images import Content
from classifier.data.preprocessing import Preprocessing
from classifier.engines import map_processes, map_workers
from classifier.errors import StageError
from classifier.prepare import quality
from classifier.prepare.labeled_images import LabeledImages, decode, processes_for
from classifier.prepare.shard_cache import ShardCache
from classifier.progress import progress_bar
from classifier.threads import count_cores

import numpy as np
import pandas as pd

BATCH = 256  # images whose figures are computed at once
SAMPLES = 10  # of each class, for a picture


@dataclass
class Packed:
    """The images that were written, and what is reported about them.

    Attributes:
        rows: of the images that were written, in the order of ``LabeledImages.rows``.
        folders: of the test images (True) and of the others (False).
        figures: of each row, from ``quality.describe``.
        histogram: of the training pixels by channel, ``(C, 256) int64``.
        problems: why images were left out, a line each.
    """

    rows: pd.DataFrame
    folders: dict[bool, Path]
    figures: dict[str, np.ndarray]
    histogram: np.ndarray
    problems: list[str]

    @functools.cached_property
    def _read(self) -> dict[bool, Callable[[str], bytes]]:
        return {is_test: images.reader(folder) for is_test, folder in self.folders.items()}

    def lookup(self, places: np.ndarray) -> np.ndarray:
        """The images at some places of the rows, ``(n, C, H, W) uint8``."""
        chosen = self.rows.iloc[places]
        pairs = zip(chosen["image"], chosen["split"] == "test", strict=True)
        return np.stack([images.decode(self._read[is_test](name), name) for name, is_test in pairs])

    def samples(self) -> dict[int, np.ndarray]:
        """The first training images of each class, by label."""
        labels = self.rows["label"][self.rows["split"] == "train"]
        return {label: self.lookup(labels.index[labels == label].to_numpy()[:SAMPLES]) for label in labels.unique()}


@dataclass
class _Shard:
    """A shard to be written: where, of which rows, and a hash of all that decides its bytes and its figures."""

    folder: Path
    name: str
    places: np.ndarray
    key: str


@dataclass
class _Task:
    """All that the writing of a shard needs, so that any process can do it.

    Attributes:
        place: the folder to write to.
        name: of the shard.
        preprocessing: how an image becomes pixels.
        names, labels: of the images.
        is_training: which of them are training images, ``(N,) bool``.
        contents: of the images: the name of its source, content, and digest of that.
        threads: that decode them.
    """

    place: Path
    name: str
    preprocessing: Preprocessing
    names: list[str]
    labels: list[int]
    is_training: np.ndarray
    contents: list[tuple[str, Content, str]]
    threads: int


def pack(
    found: LabeledImages, folders: dict[bool, Path], options: Annotate, memory: Path, scheduler: str = "none"
) -> Packed:
    """Write each image to its shard, in the folder of the test images (True) or of the others (False).

    Args:
        found: the images.
        folders: to write to.
        options: of ``annotate``.
        memory: a folder for the shards of the last run; of those, unchanged ones are linked.
        scheduler: of Dask, whose workers are to write the shards; none: processes of this machine.

    Raises:
        StageError: an image cannot be decoded, and ``bad_files`` says to stop.
    """
    cache = ShardCache(memory)
    planned = _plan(found, folders, options.shard_mb)
    figures_of = {shard.key: cache.load(shard.key) for shard in planned}
    changed = [shard for shard in planned if figures_of[shard.key] is None]
    cores = count_cores()
    processes = min(len(changed), processes_for(sum(len(shard.places) for shard in changed)))
    threads = cores if scheduler == "none" and processes < 2 else 1
    tasks = (_task(found, shard, cache.begin(shard.key), threads) for shard in changed)
    written = map_processes(_write, tasks, processes) if scheduler == "none" else map_workers(_write, tasks, scheduler)
    taken: list[dict[str, np.ndarray]] = []
    for shard in progress_bar(planned, "writing shards"):
        if (known := figures_of[shard.key]) is None:
            cache.finish(shard.key, known := next(written))
        cache.link(shard.key, shard.folder)
        taken.append(known)
        if options.bad_files == "stop" and len(known["problems"]):
            raise StageError(known["problems"][0])
    cache.forget_others()
    problems = sorted(str(line) for figures in taken for line in figures["problems"])
    places = np.concatenate([shard.places[each["kept"]] for shard, each in zip(planned, taken, strict=True)])
    if not len(places):
        raise StageError(f"no image can be decoded: {problems[0]}")
    ranks = np.split(places.argsort().argsort(), np.cumsum([len(each["kept"]) for each in taken[:-1]]))
    figures = {name: _merge([each.pop(name) for each in taken], ranks) for name in ("blank", "digest", "sketch")}
    histogram = np.sum([each["histogram"] for each in taken], axis=0)
    rows = found.rows if not problems else found.rows.iloc[np.sort(places)].reset_index(drop=True)
    return Packed(rows, folders, figures, histogram, problems)


def _merge(parts: list[np.ndarray], ranks: list[np.ndarray]) -> np.ndarray:
    """The rows of all parts, each at its rank. A part is given up at once: those of a million images are large."""
    merged = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for rank in ranks:
        merged[rank] = parts.pop(0)
    return merged


def _plan(found: LabeledImages, folders: dict[bool, Path], shard_mb: float) -> list[_Shard]:
    how, splits = found.preprocessing, found.rows["split"].to_numpy()
    shape = (how.channels, how.height, how.width)
    most = max(1, int(shard_mb * 1e6) // shards.stored_bytes(images.png(np.zeros(shape, np.uint8))))
    decide = ["image", "source", "content", "width", "height", "is_gray", "label", "split"]  # pixels have no header
    planned = []
    for is_test, folder in folders.items():
        of_folder = ((splits == "test") == is_test).nonzero()[0]
        for name, chosen in shards.plan(found.rows["image"].iloc[of_folder], most):
            places = of_folder[chosen]
            text = f"{how} {name}\n{found.rows[decide].iloc[places].to_csv(index=False)}"
            planned.append(_Shard(folder, name, places, hashlib.sha256(text.encode()).hexdigest()[:32]))
    return planned


def _task(found: LabeledImages, shard: _Shard, place: Path, threads: int) -> _Task:
    rows = found.rows.iloc[shard.places]
    here = Path.cwd()  # for a process that has another
    contents = [
        (source, here / what if isinstance(what, Path) else what, digest)
        for source, what, digest in found.contents(shard.places)
    ]
    return _Task(
        here / place, shard.name, found.preprocessing, rows["image"].tolist(), rows["label"].tolist(),
        (rows["split"] == "train").to_numpy(), contents, threads,
    )  # fmt: skip


def _write(task: _Task) -> dict[str, np.ndarray]:
    """Write a shard, and describe its images.

    Returns:
        ``kept``: which of its images could be decoded; those of ``quality.describe``; ``histogram`` of the training
        pixels; and ``problems``.
    """
    kept: list[int] = []
    pixels: list[np.ndarray] = []
    problems: list[str] = []

    def written() -> Iterator[tuple[str, int, bytes]]:
        for number, result in enumerate(decode(task.preprocessing, task.contents, task.threads)):
            if isinstance(result, StageError):
                problems.append(str(result))
            else:
                kept.append(number)
                pixels.append(np.ascontiguousarray(result))  # Pillow's order makes the sums below ten times as slow
                yield task.names[number], task.labels[number], images.png(result)

    shards.write(task.place, task.name, written())
    how = task.preprocessing
    kept_pixels = np.stack(pixels) if pixels else np.zeros((0, how.channels, how.height, how.width), np.uint8)
    batches, training = (
        np.array_split(each, len(pixels) // BATCH + 1) for each in (kept_pixels, task.is_training[kept])
    )
    described = [quality.describe(batch) for batch in batches]
    histograms = [images.histogram(batch[chosen]) for batch, chosen in zip(batches, training, strict=True)]
    return {
        **{name: np.concatenate([each[name] for each in described]) for name in described[0]},
        "kept": np.array(kept, int),
        "histogram": np.sum(histograms, axis=0),
        "problems": np.array(problems, str),
    }
