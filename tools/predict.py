"""Classify image files with the exported model alone: no PyTorch, no params.yaml, no dataset.

reads   models/classifier.onnx (or --model); the given images: files, folders, 'patterns*', - (standard input)
writes  a table to standard output, or JSON or CSV; table and JSON name the SHA-256 of the model
run     python -m tools.predict PATH... [--json | --csv] [--invert]
expect  an answer in under half a second; exit status 1 if an image could not be read (the others are still classified)

Images become pixels as those of the training did. A model that was trained on light objects on black, as FashionMNIST
shows them, needs --invert for a photograph on a light background; a note suggests it.
"""

import argparse
import csv
import glob
import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from classifier.data.images import reason
from classifier.data.preprocessing import Preprocessing
from classifier.errors import StageError
from classifier.export import background
from classifier.export.onnx_session import create_session
from classifier.runner import files
from classifier.runner.cli import ROOT, make_parser, run_tool

import numpy as np

MODEL = ROOT / "models" / "classifier.onnx"
BATCH_SIZE = 256  # images

logger = logging.getLogger("tools.predict")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and classify the images."""
    parser = make_parser("tools.predict", __doc__)
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="an image file, a folder, a pattern, or - (standard input)"
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="the ONNX file (default: models/classifier.onnx)")
    parser.add_argument("--invert", action="store_true", help="for dark objects on a light background")
    form = parser.add_mutually_exclusive_group()
    parser.set_defaults(show=print_table)
    for name, function in (("json", print_json), ("csv", print_csv)):
        text = f"print {name.upper()} with the probability of every class"
        form.add_argument(f"--{name}", dest="show", action="store_const", const=function, help=text)
    return run_tool("predict", parser, classify, argv)


def classify(arguments: argparse.Namespace) -> int:
    """Classify every readable image, then report the others."""
    model = Classifier(arguments.model)
    answers: list[dict] = []
    unlike: list[str] = []
    bad: list[str] = []
    for names, pixels in batches(images_in(arguments.paths, bad), model.preprocessing, arguments.invert, bad):
        answers += model.answers(names, pixels)
        unlike += [name for name, differs in zip(names, model.unlike(pixels), strict=True) if differs]

    arguments.show(answers)
    if arguments.show is print_table and answers:
        print(f"{printable(str(arguments.model.name))}: sha256 {model.sha256[:16]}")
    sys.stdout.flush()  # a pipe would delay the answers until after the notes and errors
    if unlike:
        logger.warning(note(unlike, model.background, arguments.invert))
    for line in bad:
        logger.error(line)
    return int(bool(bad))


def images_in(paths: Sequence[str], bad: list[str]) -> Iterator[str]:
    """The image files that the paths name; for a path that names none, a message is appended to ``bad``.

    A folder yields every file below it that is not hidden; a pattern (``*``, ``**``, ``?``, ``[a-z]``; for shells that
    do not expand it) yields every matching file. Both are sorted, and what links lead to again and again is named once.
    """
    for path in paths:
        if path == "-" or (os.path.exists(path) and not os.path.isdir(path)):  # a pipe is a file, too
            yield path
            continue
        pattern = f"{glob.escape(path)}/**" if os.path.isdir(path) else path
        longest_first = sorted(glob.glob(pattern, recursive=True), key=len, reverse=True)
        real = {os.path.realpath(each): os.path.normpath(each) for each in longest_first}
        # What is missing is the target of a link.
        found = [name for place, name in real.items() if os.path.isfile(place) or not os.path.exists(place)]
        closed = (each for each in longest_first if os.path.isdir(each) and not os.access(each, os.R_OK | os.X_OK))
        bad += [f"{printable(each)}: this folder cannot be read; permissions are needed" for each in closed]
        if not found:
            bad.append(f"{printable(path)}: {'no file in this folder' if os.path.isdir(path) else 'no such file'}")
        yield from sorted(found)


def as_text(name: str) -> str:
    """A file name whose bytes need not be text: those that are not are shown as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(name: str) -> str:
    """A file name in one line: control characters are shown as escapes, too."""
    return "".join(repr(each)[1:-1] if not each.isprintable() else each for each in as_text(name))


def batches(
    paths: Iterable[str], preprocessing: Preprocessing, invert: bool, bad: list[str]
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and pixels, ``(N, C, H, W) uint8``, of the readable images; appends a message to ``bad`` for the others."""
    names: list[str] = []
    pixels: list[np.ndarray] = []
    for path in paths:
        try:
            content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
            pixels.append(preprocessing(content, printable(path), invert))
            names.append(path)
        except OSError as error:
            bad.append(f"{printable(path)}: not a readable image: {reason(error)}")
        except StageError as error:
            bad.append(str(error))
        if len(names) == BATCH_SIZE:
            yield names, np.stack(pixels)
            names, pixels = [], []
    if names:
        yield names, np.stack(pixels)


def note(unlike: list[str], known: str, inverted: bool) -> str:
    """A hint for images whose background is not the kind that the model was tested on."""
    others = f" and {len(unlike) - 1:,} more" if len(unlike) > 1 else ""
    seen = "dark" if known == "light" else "light"
    when, advice = (" once inverted", "leave out") if inverted else ("", "try")
    return (
        f"{printable(unlike[0])}{others}: {seen} background{when}, but the model knows {known} ones; {advice} --invert"
    )


def print_json(answers: list[dict]) -> None:
    """Print a list with one object per image."""
    print(json.dumps(answers, indent=2))


def print_csv(answers: list[dict]) -> None:
    """Print a header and one row per image, with the columns of ``metrics/predictions.csv``."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    classes = answers[0]["probabilities"] if answers else ()
    table.writerow(["image", "predicted", *(f"probability of {name}" for name in classes)])
    for answer in answers:
        probabilities = (f"{probability:.6f}" for probability in answer["probabilities"].values())
        table.writerow([as_text(answer["image"]), answer["class"], *probabilities])


def print_table(answers: list[dict]) -> None:
    """Print one line per image: its class, then the three most probable classes."""
    names = [printable(answer["image"]) for answer in answers]
    name_width = max(map(len, names), default=0)
    class_width = max((len(answer["class"]) for answer in answers), default=0)
    for name, answer in zip(names, answers, strict=True):
        likely = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[:3]
        percents = ", ".join(f"{each} {probability:.1%}" for each, probability in likely)
        print(f"{name:<{name_width}}  {answer['class']:<{class_width}}  ({percents})")


class Classifier:
    """An exported model with its class names.

    Attributes:
        preprocessing: what becomes of an image file.
        class_names: names of classes 0, 1, ...
        background: of the test images: light, dark or mixed.
        sha256: of the file, as in the manifest of a release.

    Raises:
        StageError: the file is missing, or ``export`` did not write it.
    """

    def __init__(self, path: Path, threads: int = 1):
        if not path.exists():
            raise StageError(f"{path} is missing; `dvc repro export` makes it, `dvc pull` fetches it")
        try:
            self.sha256 = files.digest(path)
            self._session = create_session(path, threads)
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.class_names: list[str] = json.loads(metadata["class_names"])
            self.background: str = json.loads(metadata["background"])
            how = json.loads(metadata["preprocessing"])
            channels, height, width = self._session.get_inputs()[0].shape[1:]
            self.preprocessing = Preprocessing(channels, height, width, fit=how["fit"], background=how["background"])
        except Exception as error:  # onnxruntime's errors have no common base
            raise StageError(f"{path}: not a model that `export` wrote: {str(error).partition(chr(10))[0]}") from None

    def answers(self, names: Sequence[str], pixels: np.ndarray) -> list[dict]:
        """Name, class and probabilities by class for each of ``(N, C, H, W) uint8`` images."""
        (rows,) = self._session.run(["probabilities"], {"images": pixels})
        return [
            {
                "image": name,
                "model": f"sha256:{self.sha256}",
                "class": self.class_names[row.argmax()],
                "probabilities": {key: round(float(p), 6) for key, p in zip(self.class_names, row, strict=True)},
            }
            for name, row in zip(names, rows, strict=True)
        ]

    def unlike(self, pixels: np.ndarray) -> np.ndarray:
        """Which images have a different background from the test images, ``(N,) bool``."""
        if self.background == "mixed":
            return np.zeros(len(pixels), bool)
        return np.asarray(background.light(pixels) != (self.background == "light"))


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `predict ... | head` ends quietly, like any filter
    sys.exit(main())
