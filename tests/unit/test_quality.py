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


def test_nearly_identical_finds_every_pair(tmp_path: Path) -> None:
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
    counts, pairs = findings(pixels, [], tmp_path / "memory", class_name=classes, split=splits)
    assert counts["nearly_identical"] == expected
    assert (pairs["finding"] == "nearly identical").sum() == expected["pairs"]


@pytest.mark.parametrize("shape", [(1, 9, 5), (3, 20, 28), (1, 1, 1), (3, 64, 64)])
def test_images_are_as_far_from_each_other_as_their_sketches_at_least(shape: tuple[int, ...]) -> None:
    """The largest difference that counts, everywhere the same, and rounding against it: none may be sorted out."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (50, *shape), dtype=np.uint8)
    others = np.where(pixels < 128, pixels + 4, pixels - 4).astype(np.uint8)
    others[:25] = pixels[:25] // 2 + 4
    pixels[:25] //= 2
    sketches = near_duplicates.sketch(np.concatenate([pixels, others]))
    order = random.permutation(100)
    candidates = near_duplicates.Candidates(sketches[order], np.ones(100, bool))
    found = {frozenset(order[pair]) for pair in candidates.pairs}
    assert candidates.is_whole
    assert found >= {frozenset((one, one + 50)) for one in range(50)}


@pytest.mark.parametrize("most", [700, 40, 5])
def test_of_too_many_pairs_those_with_the_nearest_sketches_are_compared(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if blocks are small, so that the limit changes on the way."""
    for name, value in {"MAX_CANDIDATES": most, "LEFT": 7, "RIGHT": 5}.items():
        monkeypatch.setattr(near_duplicates, name, value)
    random = np.random.default_rng(0)
    sketches = (random.integers(0, 2, (100, 1)) * 400 + random.integers(0, 99, (100, 12))).astype(np.uint16)
    first, second = np.triu_indices(100, 1)
    squared = ((sketches[first].astype(int) - sketches[second]) ** 2).sum(1)
    nearest = squared < np.sort(squared)[most]
    candidates = near_duplicates.Candidates(sketches, np.ones(100, bool))
    assert not candidates.is_whole
    assert candidates.pairs.tolist() == np.stack([first, second], axis=1)[nearest].tolist()
    monkeypatch.setattr(near_duplicates, "NEXT", 2)
    alike = np.repeat(sketches[:2], 20, axis=0)  # even of pairs of the same sketch there are too many
    pairs = near_duplicates.Candidates(alike, np.ones(40, bool)).pairs
    if most < 2 * 190:
        expected = [[a, b] for a in range(40) for b in (a + 1, a + 2) if b < 40 and a // 20 == b // 20]
        assert pairs.tolist() == expected


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
    compared: list[int] = []

    def search(chosen: np.ndarray, memory: Path) -> set[tuple[bytes, bytes]]:
        digests = figures["digest"][chosen]

        def lookup(places: np.ndarray) -> np.ndarray:
            compared.append(len(places))
            return np.asarray(pixels[chosen[places]])

        found = near_duplicates.find(digests, figures["sketch"][chosen], lookup, memory)
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
    for most in (100_000, 150):
        monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", most)
        search(np.arange(90), tmp_path / f"memory of {most}")
        assert compared
        compared.clear()
        search(np.arange(90), tmp_path / f"memory of {most}")
        assert not compared
    monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", 100_000)
    (tmp_path / "memory").write_bytes(b"damaged")
    assert search(np.arange(90), tmp_path / "memory") == search(np.arange(90), tmp_path / "fresh")
