"""The dataset: annotated images, with the signature of PyTorch's data tutorial.

Source of the signature: ``CustomImageDataset`` in "Datasets & DataLoaders", PyTorch tutorials, "Learn the Basics".
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from classifier.data import annotations, images
from classifier.errors import StageError
from classifier.progress import progress_bar
from classifier.threads import map_ahead

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

READ_AHEAD = 8  # batches


class AnnotatedImages(Dataset[tuple[Any, Any]]):
    """Images and labels of one split (or of all), in the order of the annotations file.

    Works with ``torch.utils.data.DataLoader`` unchanged. Code that needs whole batches calls ``batches`` instead: one
    index operation per batch, where a loader would call ``__getitem__`` for each image. If the images need more memory
    than ``memory_mb``, they stay on disk and ``batches`` prefetches them, in the same order and with the same bytes.

    Args:
        annotations_file: CSV, see ``annotations.py``; or the data frame that ``annotations.read`` returns.
        img_dir: the images that the ``image`` column names: a folder of shards or of files, or a ZIP; or the function
            that ``images.reader`` returns.
        transform: applied to an image, ``(C, H, W) uint8``.
        target_transform: applied to a label, ``int``.
        split: train, val or test; None: all rows.
        memory_mb: memory limit for the images, in MB; None: no limit.
        threads: number of prefetch threads, used if the images are not in memory.

    Attributes:
        labels: ``(N,) int64``, on the CPU.
        names: the ``image`` column.
        class_names: names of classes 0, 1, ...; all classes of the file, whatever the split.
        shape: channels, height and width of an image; (0, 0, 0) if there are no images.
        images: ``(N, C, H, W) uint8``, or None if they are not in memory.

    Raises:
        StageError: the CSV or an image is invalid.
    """

    def __init__(
        self,
        annotations_file: str | Path | pd.DataFrame,
        img_dir: str | Path | Callable[[str], bytes],
        transform: Callable[[torch.Tensor], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        split: str | None = None,
        memory_mb: float | None = None,
        threads: int = 2,
    ):
        rows = annotations_file
        if not isinstance(rows, pd.DataFrame):
            rows = annotations.read(rows)
        self.class_names = annotations.class_names(rows)
        if split is not None:
            rows = rows[rows["split"] == split]
        self.names = rows["image"].tolist()
        self.labels = torch.tensor(rows["label"].to_numpy(np.int64))
        self.transform = transform
        self.target_transform = target_transform
        self.threads = threads
        self._read = img_dir if callable(img_dir) else images.reader(img_dir)
        first = images.decode(self._read(self.names[0]), self.names[0]) if self.names else np.empty((0, 0, 0), np.uint8)
        self.shape: tuple[int, int, int] = first.shape
        self.images: torch.Tensor | None = None
        if memory_mb is None or first.nbytes * len(self) <= memory_mb * 1e6:
            names = progress_bar(self.names, "reading images")
            self.images = torch.from_numpy(images.stack(names, len(self), self._read, self.shape))

    @property
    def device(self) -> torch.device:
        """Where the images are; those that are read from disk arrive on the CPU."""
        return torch.device("cpu") if self.images is None else self.images.device

    def to(self, device: torch.device) -> None:
        """Keep the images on a device, if they are in memory and, on CUDA, take at most half of what is free there."""
        if self.images is None or device.type == "cpu":
            return
        if device.type != "cuda" or 2 * self.images.nbytes <= torch.cuda.mem_get_info(device)[0]:
            self.images = self.images.to(device)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = self.batch(torch.tensor([index]))[0], int(self.labels[index])
        return (
            self.transform(image) if self.transform else image,
            self.target_transform(label) if self.target_transform else label,
        )

    def batch(self, indices: torch.Tensor) -> torch.Tensor:
        """The images at ``(n,) int64``, as ``(n, C, H, W) uint8``; no transform is applied."""
        if self.images is not None:
            return self.images.index_select(0, indices.to(self.device))  # takes a fifth of the time of [indices]
        names = [self.names[index] for index in indices.tolist()]
        return torch.from_numpy(images.stack(names, len(names), self._read, self.shape))

    def all_images(self) -> torch.Tensor:
        """All images in memory, ``(N, C, H, W) uint8``."""
        return self.images if self.images is not None else self.batch(torch.arange(len(self)))

    def targets(self) -> torch.Tensor:
        """All labels, transformed, as one tensor ``(N, ...)``."""
        if self.target_transform is None or not len(self):
            return self.labels
        return torch.stack([torch.as_tensor(self.target_transform(label)) for label in self.labels.tolist()])

    def batches(self, plan: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each set of indices with its ``batch``, reading ahead on threads if the images are not in memory."""
        if self.images is not None:
            return ((indices, self.batch(indices)) for indices in plan)
        return map_ahead(self.batch, plan, self.threads, READ_AHEAD)

    def iter_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """All images in their order, ``(n, C, H, W) uint8`` each time."""
        if len(self):
            plan = torch.arange(len(self), device=self.device).split(batch_size)
            yield from (batch for _, batch in self.batches(plan))


def load_splits(
    annotations_file: Path, img_dir: Path, *required: str, optional: str = "", **options: Any
) -> list[AnnotatedImages]:
    """Load several splits, reading annotations and directory once; the optional one, which may be empty, comes last.

    Raises:
        StageError: a required split has no rows.
    """
    rows = annotations.read(annotations_file)
    for split in required:
        if not (rows["split"] == split).any():
            raise StageError(f"{annotations_file}: has no row with the split {split}")
    read = images.reader(img_dir)
    return [AnnotatedImages(rows, read, split=split, **options) for split in (*required, optional) if split]
