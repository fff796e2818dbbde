"""annotate on good and bad raw files."""

import re
from typing import Any

from classifier.data import annotations, images
from classifier.prepare.registry import RAW_FILES
from tests.project import TEST_IMAGES, TRAINING_IMAGES, Project, one_line
from tests.support import idx_files

import numpy as np
import pytest


def test_annotations_have_one_row_per_raw_image_and_metrics_describe_them(finished: Project) -> None:
    rows = annotations.read(finished.root / "data/annotations.csv")
    assert finished.read("data/annotations.csv").startswith(b"image,label,class_name,split\ntest/00000.png,")
    assert rows["image"].is_monotonic_increasing
    assert len(rows) == TRAINING_IMAGES + TEST_IMAGES
    for part, prefix, folder in (("train", "train", "images"), ("t10k", "test", "test_images")):
        mine = rows[rows["image"].str.startswith(prefix)]
        pixels = images.stack(mine["image"], len(mine), images.reader(finished.root / "data" / folder))
        assert (pixels[:, 0] == idx_files.read(finished.raw / f"{part}-images-idx3-ubyte")).all()
        assert (mine["label"] == idx_files.read(finished.raw / f"{part}-labels-idx1-ubyte")).all()
    metrics = finished.json("metrics/annotate.json")
    assert metrics["num_images"]["train"] == (rows["split"] == "train").sum()
    names = rows[rows["split"] == "train"]["image"]
    used = images.stack(names, len(names), images.reader(finished.root / "data/images")) / 255
    assert metrics["training_pixels"]["mean"] == pytest.approx(used.mean(), abs=1e-6)
    assert metrics["training_pixels"]["std"] == pytest.approx(used.std(), abs=1e-6)


def test_params_of_annotate_are_obeyed_or_refused(finished: Project) -> None:
    def drawn() -> set[str]:
        rows = finished.table("data/annotations.csv")
        assert not rows[rows["split"] == "val"]["image"].str.startswith("test/").any()
        assert 0.05 < len(rows[rows["split"] == "val"]) / TRAINING_IMAGES < 0.15
        return set(rows[rows["split"] == "val"]["image"])

    first = drawn()
    finished.set_all({"annotate.seed": 1, "annotate.size": [14, 20], "annotate.channels": 3})
    finished.stage("annotate")
    assert drawn() != first
    read = images.reader(finished.root / "data/images")  # size and channels hold for a built-in set, too
    assert images.decode(read("train/00000.png"), "train/00000.png").shape == (3, 14, 20)
    finished.set(annotate__validation_fraction=0.99)
    finished.stage("annotate")
    rows = finished.table("data/annotations.csv")
    assert rows[rows["split"] == "train"]["class_name"].nunique() == 10  # each class keeps one


def test_zero_validation_fraction_makes_no_validation_split(finished: Project) -> None:
    finished.set(annotate__validation_fraction=0.0)
    finished.repro("train")
    assert set(finished.table("data/annotations.csv")["split"]) == {"train", "test"}
    assert "val_loss" not in finished.json("metrics/train.json")
    assert finished.json("metrics/annotate.json")["num_images"].keys() == {"train", "test"}


def test_odd_images_are_counted_and_kept(finished: Project) -> None:
    none = {"across_splits": 0, "with_another_label": 0}
    pairs = {"identical": {"images": 0, **none}, "nearly_identical": {"pairs": 0, **none}}
    counts = {"blank": 0, "groups_in_several_splits": 0, "left_out": 0}
    assert finished.json("metrics/annotate.json")["findings"] == pairs | counts
    train, train_labels, test, test_labels = (idx_files.read(finished.root / "data/raw" / name) for name in RAW_FILES)
    train = train.copy()
    same, other = ((train_labels == label).nonzero()[0] for label in (test_labels[0], (test_labels[0] + 1) % 10))
    train[same[0]] = train[other[0]] = test[0]  # three in one: two labels, two splits
    train[same[1:3]] = test[1:3]
    train[same[1], 0, 0] += 20  # 20 gray levels on one pixel of 784: 0.7 on the mean
    train[same[2], :4] += 20  # on a seventh of the image: 7.6
    train[same[3]] = 7
    idx_files.write(finished.root / "data/raw" / RAW_FILES[0], train)
    done = finished.stage("annotate")
    found = finished.json("metrics/annotate.json")["findings"]
    assert found["blank"] == 1
    assert found["identical"] == {"across_splits": 3, "images": 3, "with_another_label": 3}
    assert (found["nearly_identical"]["across_splits"], found["nearly_identical"]["pairs"]) == (1, 1)
    assert "found 1 blank images, 3 with an identical one (3 in another split), 1 nearly identical pairs" in done.stdout
    assert len(annotations.read(finished.root / "data/annotations.csv")) == TRAINING_IMAGES + TEST_IMAGES

    # The table and the report have all of them, the worst first.
    rows = finished.table("metrics/annotate/findings.csv", dtype=str, keep_default_na=False)
    assert sorted(rows["finding"][:3]) == ["identical", "identical", "nearly identical"]
    assert rows["finding"][3] == "blank"
    differ = {what: (rows[what] != rows[f"other_{what}"])[:3].tolist() for what in ("label", "split")}
    assert differ["label"] == sorted(differ["label"], reverse=True)
    assert differ["label"][0]
    assert sum(differ["split"]) >= 2
    assert [*rows.loc[3, ["other", "other_label", "other_split"]]] == [""] * 3
    finished.stage("report")
    page = finished.read("metrics/report.html").decode()
    section = page[page.index('id="findings"') : page.index('id="params"')]
    for row, words in enumerate(re.findall(r"<td>((?:identical|nearly identical)[a-z, ]*)</td></tr>", section)):
        assert ("another label" in words) == differ["label"][row]
        assert ("another split" in words) == differ["split"][row]
    assert section.count("<img") == 7
    assert ">blank</td>" in section


def without_bags(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 8, 7, labels)


@pytest.mark.parametrize(
    ("part", "change", "status", "says"),
    [
        ("train", without_bags, 1, "error: no training image of the class Bag; add some, or leave the class out"),
        ("t10k", without_bags, 0, "warning: no test image, so nothing is known about them: Bag"),
        ("t10k", lambda labels: labels[:-1], 1, f"{TEST_IMAGES} images but {TEST_IMAGES - 1} labels"),
        ("t10k", lambda labels: np.where(labels == 3, 10, labels), 1, "t10k has the label 10; the classes are 0 to 9"),
    ],
    ids=["no training image", "no test image", "too few labels", "no such class"],
)
def test_labels_that_do_not_fit_are_named(finished: Project, part: str, change: Any, status: int, says: str) -> None:
    path = finished.root / f"data/raw/{part}-labels-idx1-ubyte"
    idx_files.write(path, change(idx_files.read(path)))
    assert says in one_line(finished.stage("annotate", status=status))
