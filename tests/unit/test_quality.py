"""Data quality: nothing that is nearly identical is missed."""

import string
from pathlib import Path
from typing import Any

from classifier.prepare import near_duplicates
from classifier.prepare import quality as quality_module

import numpy as np
import pandas as pd
import pytest

NOISE = np.random.default_rng(0).integers(0, 256, (7, 1, 8, 8), dtype=np.uint8)


def findings(pixels: np.ndarray, asked: list[int], memory: Path, **columns: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    """Of images a, b, c, ...; ``asked`` gets how many of them were looked at again."""
    names = [*string.ascii_letters][: len(pixels)]
    rows = pd.DataFrame({"image": names, "class_name": "a", "split": "train", "group": ""})

    def lookup(places: np.ndarray) -> np.ndarray:
        asked.append(len(places))
        return np.asarray(pixels[places])

    return quality_module.findings(rows.assign(**columns), quality_module.describe(pixels), lookup, memory)


@pytest.mark.parametrize("most_candidates", [1000, 0])  # 0: each image is compared with its nearest ones
def test_nearly_identical_finds_every_pair(
    most_candidates: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Against all pairs; the images are bigger in one direction, and no multiple of the blocks."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (30, 1, 1, 1)) + random.integers(-3, 4, (30, 1, 9, 5))
    pixels = pixels.clip(0, 255).astype(np.uint8)
    classes, splits = random.integers(0, 2, 30).astype(str), random.choice(["train", "test"], 30)
    first, second = np.triu_indices(30, 1)
    distance = ((pixels[first].astype(float) - pixels[second]) ** 2).mean((1, 2, 3)) ** 0.5
    near = (distance > 0) & (distance <= near_duplicates.NEAR)
    expected = {
        "across_splits": (near & (splits[first] != splits[second])).sum(),
        "pairs": near.sum(),
        "with_another_label": (near & (classes[first] != classes[second])).sum(),
    }
    assert expected["pairs"] > 3
    monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", most_candidates)
    counts, pairs = findings(pixels, [], tmp_path / "memory", class_name=classes, split=splits)
    assert counts["nearly_identical"] == expected
    assert (pairs["finding"] == "nearly identical").sum() == expected["pairs"]


def test_images_near_to_identical_ones_are_compared_once_and_all_listed(tmp_path: Path) -> None:
    one = np.random.default_rng(0).integers(0, 200, (1, 8, 8), dtype=np.uint8)
    pixels = np.stack([one, one, one + 1, one + 1, one + 50])
    asked: list[int] = []
    counts, pairs = findings(pixels, asked, tmp_path / "memory", split=["train", "test", "train", "train", "train"])
    near = pairs[pairs["finding"] == "nearly identical"]
    assert sorted(zip(near["image"], near["other"], strict=True)) == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    assert counts["nearly_identical"] == {"across_splits": 2, "pairs": 4, "with_another_label": 0}
    assert asked == [1, 2]  # the first one for its size


def test_group_in_two_splits_is_listed_with_an_image_of_each(tmp_path: Path) -> None:
    splits = ["train", "train", "test", "val", "val", "train", "test"]
    counts, found = findings(NOISE, [], tmp_path / "memory", group=["x", "x", "x", "y", "y", "", ""], split=splits)
    assert counts["groups_in_several_splits"] == 1
    assert found[["finding", "image", "other", "splits_differ"]].to_numpy().tolist() == [["same group", "a", "c", True]]


def test_nothing_odd_gives_an_empty_table(tmp_path: Path) -> None:
    _, found = findings(NOISE, [], tmp_path / "memory")
    assert found.empty
    assert {*found} == {*quality_module.COLUMNS, "labels_differ", "splits_differ"}


def test_a_search_that_remembers_finds_what_one_from_nothing_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sets that grow, shrink and come back, with fewer and more candidates than are compared at most."""
    random = np.random.default_rng(0)
    pixels = (random.integers(0, 12, (90, 1, 1, 1)) * 20 + random.integers(-3, 4, (90, 1, 6, 6))).clip(0, 255)
    pixels = pixels.astype(np.uint8)
    figures = quality_module.describe(pixels)
    monkeypatch.setattr(near_duplicates, "NEAREST", 2)  # so that a search among too many candidates misses pairs
    compared: list[int] = []

    def search(chosen: np.ndarray, memory: Path) -> set[tuple[bytes, bytes]]:
        digests = figures["digest"][chosen]

        def lookup(places: np.ndarray) -> np.ndarray:
            compared.append(len(places))
            return np.asarray(pixels[chosen[places]])

        coarse, fine = figures["coarse"][chosen], figures["fine"][chosen]
        found = near_duplicates.find(digests, coarse, fine, lookup, memory)
        assert (found[:, 0] < found[:, 1]).all()
        pairs = {(min(pair), max(pair)) for pair in map(tuple, digests[found].tolist())}
        assert len(pairs) == len(found)
        return pairs

    for number in range(60):
        monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", random.choice([150, 300, 100_000]))
        chosen = random.permutation(90)[: random.integers(2, 91)]
        assert search(chosen, tmp_path / "memory") == search(chosen, tmp_path / f"{number}")
    monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", 100_000)
    assert len(search(np.arange(89), tmp_path / "memory")) > 50
    compared.clear()
    search(np.arange(90), tmp_path / "memory")
    assert 0 < compared[-1] < 20  # the new one and its neighbors
    compared.clear()
    for most in (100_000, 0):
        monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", most)
        search(np.arange(90), tmp_path / f"memory of {most}")
        assert compared
        compared.clear()
        search(np.arange(90), tmp_path / f"memory of {most}")
        assert not compared
    monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", 100_000)
    (tmp_path / "memory").write_bytes(b"damaged")
    assert search(np.arange(90), tmp_path / "memory") == search(np.arange(90), tmp_path / "fresh")
