"""The dataset, read from disk."""

from pathlib import Path

from classifier.data import images
from classifier.data.dataset import AnnotatedImages
from classifier.errors import StageError

import numpy as np
import pytest


def test_wrong_image_read_late_is_named(tmp_path: Path) -> None:
    pixels = [np.zeros((1, 4, 4), np.uint8)] * 20 + [np.zeros((1, 4, 5), np.uint8)]
    images.write_zip(tmp_path / "a.zip", [f"{n}.png" for n in range(21)], pixels)
    lines = ["image,label,class_name,split", *(f"{n}.png,0,cat,train" for n in range(21))]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    data = AnnotatedImages(tmp_path / "a.csv", tmp_path / "a.zip", memory_mb=0)
    with pytest.raises(StageError, match=r"20.png: is 1x4x5 .* but the images before it are 1x4x4"):
        list(data.iter_batches(3))
