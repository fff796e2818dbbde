"""What check_images says about a set: notes, advice, lines for params.yaml."""

from pathlib import Path

from classifier import ROOT
from classifier.config import params_file
from tests.support import own
from tests.support.labeled import PETS, load, png, write
from tools import check_images

import pytest
from PIL import Image


@pytest.mark.parametrize(("name", "line"), [("007", 'dataset: "007"'), ("my pets", "dataset: my pets")])
def test_lines_for_params_can_be_pasted(name: str, line: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, PETS)
    said = check_images.lines_for_params(path, load(path), 0, params_file.read(Path(ROOT, "params.yaml"))[0].train)
    assert f"  {line}\n" in said
    assert "link" not in said


def test_copies_in_several_classes_get_a_note(tmp_path: Path) -> None:
    assert check_images.contradictions(load(write(tmp_path / "clean", PETS)).rows) == []
    rows = load(write(tmp_path / "pets", {**PETS, "dog/9.png": PETS["cat/1.png"]})).rows
    assert check_images.contradictions(rows) == ["2 copies are in several classes, such as cat/1.png, dog/9.png"]


def test_black_icons_on_black_get_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def icon(shown: int, alpha: int) -> bytes:
        image = Image.new("LA", (20, 16), (0, alpha))
        image.paste((shown, 255), (4, 4, 12, 12))
        return own.encode(image, "PNG")

    icons = {"cat/black.png": icon(30, 0), "dog/opaque.png": icon(0, 255), "dog/gray.png": icon(99, 0)}
    check_images.main([str(write(tmp_path / "s", {**PETS, **icons}))])
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "background" in line]
    says = "1 of 15 images cannot be seen on black, such as cat/black.png; set annotate.background: white"
    assert note == f"note: {says}"


def test_long_names_leave_the_table_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "s", {**PETS, **{f"{'n' * 200}/{number}.png": png(2, number) for number in range(6)}})
    check_images.main([str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert f"{'n' * 40}…{'n' * 40}" in "\n".join(lines)
    assert max(map(len, lines)) < 200


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"),
    [(12, 12, 350), (33, 33, 350), (144, 32, 70), (257, 33, 44), (610, 32, 19), (4_000, 128, 19), (9_000, 256, 19)],
)
def test_advice_for_few_images_is_more_steps_and_no_tiny_batch(images: int, batch_size: int, epochs: int) -> None:
    """With a batch of 4, 144 images gave a model as good as chance; a last batch of one image is refused by train."""
    assert check_images.advise(images, 256, 19) == (batch_size, epochs)
    assert check_images.advise(images, batch_size, epochs) == (batch_size, epochs)
    assert check_images.advise(144, 4, 19) == (32, 70)
