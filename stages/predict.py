"""Classify image files with the exported model alone: no PyTorch, no params.yaml, no data set.

reads   models/classifier.onnx (or --model), and the images that you name
writes  a table to standard output, or JSON
run     python -m stages.predict IMAGE... [--json] [--invert]
expect  an answer in under half a second; exit status 1 if an image could not be read, after all others were answered

Images are resized to the model's size and made greyscale or RGB as it wants. FashionMNIST shows light things on black:
for a photograph on a light background use --invert.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as `python stages/predict.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image, ImageOps

from stages.lib.errors import StageError

MODEL = Path(__file__).resolve().parents[1] / "models" / "classifier.onnx"
BATCH = 256  # images


def read_image(path: Path, channels: int, height: int, width: int, invert: bool) -> np.ndarray:
    """An image as the model wants it, ``(C, H, W) uint8``.

    Raises:
        StageError: there is no such file, or it is no image.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8 instead of scaling them
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if upright.has_transparency_data:  # what is transparent counts as black
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright.convert("RGBA"))
            converted = upright.convert("L" if channels == 1 else "RGB")
            if converted.size != (width, height):
                converted = converted.resize((width, height), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        raise StageError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise StageError(f"{path}: no readable image: {_reason(error)}") from None
    pixels = np.asarray(ImageOps.invert(converted) if invert else converted)
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _reason(error: Exception) -> str:
    """Pillow's words without the name of the file, which the line names already."""
    return re.split(" ['<]", str(error))[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Answer for every image that can be read."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="an image file, or a folder of them")
    parser.add_argument("--model", type=Path, default=MODEL, help="the ONNX file (default: models/classifier.onnx)")
    parser.add_argument("--invert", action="store_true", help="for dark things on a light background")
    parser.add_argument("--json", action="store_true", help="print a JSON list with the probability of every class")
    arguments = parser.parse_args(argv)
    try:
        model = Classifier(arguments.model)
    except StageError as error:
        print(f"predict: error: {error}", file=sys.stderr)
        return error.exit_status

    answers, failed = [], False
    paths = [file for path in arguments.images for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    for start in range(0, len(paths), BATCH):
        names, pixels = [], []
        for path in paths[start : start + BATCH]:
            try:
                pixels.append(read_image(path, *model.input_shape, invert=arguments.invert))
                names.append(str(path))
            except StageError as error:
                print(f"predict: error: {error}", file=sys.stderr)
                failed = True
        if names:
            answers += [
                {"image": name, "class": model.class_names[row.argmax()], "probabilities": model.by_class(row)}
                for name, row in zip(names, model.probabilities(np.stack(pixels)), strict=True)
            ]
    if arguments.json:
        print(json.dumps(answers, indent=2))
    elif answers:
        print_table(answers)
    return int(failed)


def print_table(answers: list[dict]) -> None:
    """One line an image: its class, then the three most probable ones."""
    name_width = max(len(answer["image"]) for answer in answers)
    class_width = max(len(answer["class"]) for answer in answers)
    for answer in answers:
        likely = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[:3]
        percents = ", ".join(f"{name} {probability:.1%}" for name, probability in likely)
        print(f"{answer['image']:<{name_width}}  {answer['class']:<{class_width}}  ({percents})")


class Classifier:
    """An exported model with its class names.

    Attributes:
        input_shape: channels, height, width.
        class_names: of classes 0, 1, ...

    Raises:
        StageError: there is no such file, or it is no model that ``export`` wrote.
    """

    def __init__(self, path: Path, threads: int = 1):
        from stages.lib.onnx_session import session

        if not path.exists():
            raise StageError(f"{path} is missing; `dvc repro export` makes it, `dvc pull` fetches it")
        try:
            self._session = session(path, threads)
            self.class_names: list[str] = json.loads(self._session.get_modelmeta().custom_metadata_map["class_names"])
        except Exception as error:  # onnxruntime's errors have no common base
            raise StageError(f"{path}: no model that `export` wrote: {str(error).partition(chr(10))[0]}") from None
        self.input_shape: tuple[int, int, int] = tuple(self._session.get_inputs()[0].shape[1:])

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """``(N, C, H, W) uint8`` to ``(N, classes) float32``."""
        (result,) = self._session.run(["probabilities"], {"images": pixels})
        return np.asarray(result)

    def by_class(self, probabilities: np.ndarray) -> dict[str, float]:
        """One row of probabilities with the class names."""
        return {name: round(float(p), 6) for name, p in zip(self.class_names, probabilities, strict=True)}


if __name__ == "__main__":
    sys.exit(main())
