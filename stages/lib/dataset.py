"""The data set: annotated images in memory, with the signature of PyTorch's data tutorial.

Source of the signature: ``CustomImageDataset`` in "Datasets & DataLoaders", PyTorch tutorials, "Learn the Basics".
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from stages.lib import annotations, images
from stages.lib.errors import StageError
from stages.lib.progress import bar


class AnnotatedImages(Dataset[tuple[Any, Any]]):
    """Images and labels of one split (or of all), in the order of the annotations file.

    Works with ``torch.utils.data.DataLoader`` as it is. Code that takes whole batches reads ``images`` and ``labels``
    instead: one index operation a batch, where a loader would call ``__getitem__`` for each image.

    Args:
        annotations_file: CSV, see ``annotations.py``; or the frame that ``annotations.read`` made of it.
        img_dir: the folder or ZIP that its ``image`` column is relative to.
        transform: applied to an image, ``(C, H, W) uint8``.
        target_transform: applied to a label, ``int``.
        split: train, val or test; None takes all rows.

    Attributes:
        images: ``(N, C, H, W) uint8``.
        labels: ``(N,) int64``.
        names: the ``image`` column.
        class_names: names of classes 0, 1, ...; all classes of the file, whatever the split.

    Raises:
        StageError: the CSV or an image is not as it must be.
    """

    def __init__(
        self,
        annotations_file: str | Path | pd.DataFrame,
        img_dir: str | Path,
        transform: Callable[[torch.Tensor], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        split: str | None = None,
    ):
        rows = annotations_file
        if not isinstance(rows, pd.DataFrame):
            rows = annotations.read(rows)
        self.class_names = annotations.class_names(rows)
        if split is not None:
            rows = rows[rows["split"] == split]
        self.names = rows["image"].tolist()
        self.labels = torch.tensor(rows["label"].to_numpy(np.int64))
        self.images = torch.from_numpy(images.stack(self.names, img_dir, lambda names: bar(names, "reading images")))
        self.transform = transform
        self.target_transform = target_transform

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = self.images[index], int(self.labels[index])
        return (
            self.transform(image) if self.transform else image,
            self.target_transform(label) if self.target_transform else label,
        )


def load_splits(annotations_file: Path, img_dir: Path, *required: str, optional: str = "") -> list[AnnotatedImages]:
    """Several splits, reading the annotations once; the required ones must have rows, the optional one comes last.

    Raises:
        StageError: a required split has no row.
    """
    rows = annotations.read(annotations_file)
    for split in required:
        if not (rows["split"] == split).any():
            raise StageError(f"{annotations_file}: has no row with the split {split}")
    return [AnnotatedImages(rows, img_dir, split=split) for split in (*required, optional) if split]
