"""The pictures of report."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

from classifier.data import pictures
from classifier.data.pictures import drawable_names
from classifier.evaluate.metrics import by_class
from classifier.prepare import plots
from classifier.report import content, figures, page

import matplotlib
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from sklearn.metrics import confusion_matrix


def written(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_confusion_matrix_has_counts_and_shares() -> None:
    labels, predicted = np.array([0] * 8 + [1] * 4), np.array([0] * 6 + [1] * 2 + [1] * 4)
    with pictures.style():
        texts = written(figures.confusion(confusion_matrix(labels, predicted), ["a", "b$c$"]))
    assert {"6", "75.0%", "2", "25.0%", "4", "100.0%", "b$c$"} <= {*texts}
    assert "0" not in texts


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_grid_draws_nothing_and_colors(channels: int) -> None:
    for count in (3, 0):
        pixels = np.random.default_rng(0).integers(0, 256, (count, channels, 40, 20), dtype=np.uint8)
        drawn = page.picture(partial(figures.picture_grid, "T", pixels, ["x\ny"] * count, [True] * count, 2, "none"))
        assert drawn.png.startswith(b"\x89PNG")
        assert drawn.svg.count("<image") == count


def test_copies_of_a_picture_are_one_of_the_confident_mistakes() -> None:
    pixels = np.arange(4, dtype=np.uint8)[[1, 1, 2, 3]].reshape(4, 1, 1, 1).repeat(9, 2)
    rows = pd.DataFrame({"label": [*"aabc"], "predicted": "d", "confidence": 0.5})
    with pictures.style():
        texts = written(content.draw_mistakes(rows, pixels, 2))
        assert "No mistakes." in written(content.draw_mistakes(rows[:0], pixels[:0], 2))
    assert [text for text in texts if len(text) == 1] == ["a", "b"]
    assert texts.count("predicted d") == 2
    assert "The 2 most confident mistakes" in texts


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((16, 1, 2, 2), (16, 1, 2, 2)),  # a convolution
        ((8, 3, 5, 5), (8, 3, 5, 5)),  # on colors
        ((100, 28 * 28), (64, 1, 28, 28)),  # units on whole images
        ((5, 7), None),
        ((4, 2, 3, 3), None),
    ],
)
def test_filters_of_every_first_layer_are_drawn(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    tensors = {"3.weight": np.ones((1, 1), np.float32), "10.weight": np.ones((2, 2), np.float32)}
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model_config = '{"architecture": "x", "trained_with": {}, "channels": 1, "height": 28, "width": 28}'
    save_file({**tensors, "2.weight": weights}, tmp_path / "model", metadata={"model": model_config})
    _, kernels = content.read_model(tmp_path / "model")
    assert (None if kernels is None else kernels.shape) == expected
    assert page.picture(lambda: figures.filters(kernels)).png.startswith(b"\x89PNG")


def test_thumbnails_never_fill_the_page() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 3, 96, 64), dtype=np.uint8)
    made = list(page.thumbnails(noise))
    assert 10 < len(made) < 300
    assert sum(map(len, made)) <= page.THUMBNAIL_BYTES


def test_long_names_in_the_tables_of_a_page_are_cut(tmp_path: Path) -> None:
    (tmp_path / "template").write_text("{{ name|short }}")
    page.write(tmp_path / "page", tmp_path / "template", name="n" * 200)
    assert (tmp_path / "page").read_text() == f"{'n' * 40}…{'n' * 40}"


def test_many_classes_stay_readable() -> None:
    """316 classes: the most frequent confusions and the lowest F1, in pictures that fit a page."""
    random = np.random.default_rng(0)
    counts = np.diag(random.integers(5, 9, 316))
    counts[np.arange(315), np.arange(1, 316)] = random.integers(0, 4, 315)
    names = [f"class of flags {number}" for number in range(316)]
    with pictures.style():
        for figure in (figures.confusion(counts, names), figures.f1_bars(by_class(counts, names))):
            assert (figure.get_size_inches() <= (10, 17)).all()
            assert len(figure.axes[0].get_yticks()) == figures.MAX_CLASSES


def test_class_without_a_test_image_has_no_bar_and_no_marker_is_on_a_name() -> None:
    with pictures.style():
        figure = figures.f1_bars(by_class(np.array([[3, 0, 0], [0, 0, 0], [0, 2, 0]]), ["cat", "untested", "dog"]))
        figure.draw_without_rendering()
    (axis,) = figure.axes
    names = axis.get_yticklabels()
    assert [text.get_text() for text in names] == ["dog", "cat"]
    size = axis.lines[0].get_markersize()
    zero = axis.transData.transform((0, 0))[0]
    assert zero - size > max(text.get_window_extent().x1 for text in names)


def test_names_that_the_font_cannot_draw_are_numbers(recwarn: pytest.WarningsRecorder) -> None:
    names = drawable_names(["Straße", "犬", "a$b$c", "x" * 60, "y" * 30 + "1", "y" * 30 + "2", "z" * 60, "z" * 61])
    assert names == [
        *("Straße", "class 1", "a$b$c", "x" * 12 + "…" + "x" * 11),
        *("y" * 12 + "…" + "y" * 10 + "1", "y" * 12 + "…" + "y" * 10 + "2", "class 6", "class 7"),
    ]
    with pictures.style():
        pictures.png(figures.confusion(np.eye(8, dtype=int), names))
    assert not recwarn.list


@pytest.mark.parametrize("name", ["Smileys & Emotion", "a name of forty letters, which is a lot.", "W" * 40])
def test_captions_names_and_titles_have_room(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every picture no text leaves it; in the grids of images none touches another."""
    (name,) = drawable_names([name])
    pixels = np.zeros((6, 1, 8, 8), np.uint8)
    with pictures.style():
        no_overlap(figures.picture_grid("T", pixels, [f"{name} 100%\npredicted {name}"] * 6, [False] * 6, 8, "none"))
        counts = np.eye(2, dtype=int)
        drawn = figures.confusion(counts, [name, "b"]), figures.f1_bars(by_class(counts, [name, "b"]))
        many = figures.confusion(np.roll(np.eye(50, dtype=int), 1, 0), [f"{name}{number}" for number in range(50)])
        for figure in (*drawn, many):
            figure.draw_without_rendering()
            assert figure.get_tightbbox().x1 <= figure.get_figwidth()  # also of the title
            assert figure.get_tightbbox().x0 >= 0
    monkeypatch.setattr("classifier.prepare.plots.png", no_overlap)
    plots.sample_grid(tmp_path / "samples.png", [(name, pixels), ("b", pixels)])


def no_overlap(figure: Any) -> bytes:
    boxes = [text.get_window_extent() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
    boxes += [image.get_window_extent() for image in figure.findobj(matplotlib.image.AxesImage)]
    assert all(0 <= box.x0 < box.x1 <= figure.bbox.x1 for box in boxes)
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    return b""
