"""Tables of images: what is read of them exactly."""

from pathlib import Path

from classifier.prepare.labeled_images import LabeledImages
from tests.support.labeled import csv, load, png, refusal, write

import numpy as np
import pytest


@pytest.mark.parametrize("name", ["train.csv", "none"])
def test_the_table_is_a_param(name: str, tmp_path: Path) -> None:
    files = {f"{label}/{n}.png": png(n, 7) for n, label in enumerate("ab" * 3)}
    rows = csv(*(f"{each},{each[0].upper()}," for each in files))
    path = write(tmp_path / "s", {**files, "train.csv": rows, "sample_submission.csv": b"id,label\n"})
    says = "has several tables: sample_submission.csv, train.csv; remove others, or name one: annotate.table"
    assert says in refusal(path)
    assert {*load(path, table=name).rows["class_name"]} == ({"A", "B"} if name == "train.csv" else {"a", "b"})


def first_image(found: LabeledImages) -> np.ndarray:
    content = found.collection.find(found.rows["source"][0])
    assert isinstance(content, np.ndarray)
    return content


@pytest.mark.parametrize("head", ["pixel{}", "V{}"])
def test_pixel_columns_are_in_the_order_of_their_numbers(head: str, tmp_path: Path) -> None:
    order = sorted(range(16), key=str)  # 0, 1, 10, 11, ..., 2
    names = ["label", "split", *(head.format(number) for number in order)]
    rows = [f"{'ab'[n % 2]},{'train' if n < 4 else 'test'},{','.join(str(n + p) for p in order)}" for n in range(6)]
    found = load(write(tmp_path, {"t.csv": csv(*rows, head=",".join(names))}) / "t.csv")
    assert first_image(found).ravel().tolist() == list(range(16))


def test_pixels_may_be_a_text_of_numbers_and_classes_integers(tmp_path: Path) -> None:
    """FER2013 has them like that."""
    texts = [" ".join(str(n * 9 + p) for p in [*range(4)] * 4) for n in range(6)]
    rows = [f"{n % 2},{text},{'train' if n < 4 else 'test'}" for n, text in enumerate(texts)]
    path = write(tmp_path, {"t.csv": csv(*rows, head="emotion,pixels,split")}) / "t.csv"
    assert "annotate.label_column; it has emotion, pixels, split" in refusal(path)
    found = load(path, label_column="emotion")
    assert found.class_names == ["0", "1"]
    assert np.array_equal(first_image(found), [[0, 1, 2, 3]] * 4)
