"""Images as PNG (or any format that Pillow reads) in shards, in a folder or in one ZIP."""

import io
import math
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from classifier.data import shards
from classifier.errors import StageError

import numpy as np
from PIL import Image

MODES = {"L": 1, "RGB": 3}  # Pillow's mode: number of channels
MAX_MEGAPIXELS = 250.0  # where no param says it, as in predict; phones make 200, and more may be a decompression bomb
Image.MAX_IMAGE_PIXELS = None  # Pillow would only warn above it, and on the terminal; ``open_image`` refuses


def png(pixels: np.ndarray) -> bytes:
    """``(C, H, W) uint8`` with 1 or 3 channels as a PNG file, the same bytes on every machine.

    It is not compressed: Pillow ships with zlib or zlib-ng, which give different bytes at the same level. So images of
    one shape have files of one size.
    """
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG", compress_level=0)
    return file.getvalue()


Content = Path | bytes | np.ndarray  # of an image: its file, what is in the file, or pixels


def open_image(content: Content, max_megapixels: float) -> Image.Image:
    """Open an image, whose pixels are decoded when they are needed.

    Raises:
        Exception: any of Pillow's; there is no such file; or the image has too many pixels.
    """
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    if isinstance(content, Path):
        content = content.read_bytes()
    image = Image.open(io.BytesIO(content))
    if image.width * image.height > max_megapixels * 1e6:
        size = f"{image.width:,} x {image.height:,}"
        raise ValueError(f"{size} pixels are too many; at most {max_megapixels:g} megapixels are read")
    return image


def reason(error: Exception) -> str:
    """The reason in one line, without the file name, which the message already starts with."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).partition("\n")[0]
    for mark in (" '", " <"):
        text = text.partition(mark)[0]
    return text or type(error).__name__


def decode(content: bytes, name: str) -> np.ndarray:
    """An image file's pixels, ``(C, H, W)`` uint8 with 1 or 3 channels.

    Raises:
        StageError: the image is not readable, or neither grayscale nor RGB.
    """
    try:
        with open_image(content, MAX_MEGAPIXELS) as image:
            mode, pixels = image.mode, np.asarray(image)
    except Exception as error:  # Pillow's decoders raise almost anything for a damaged file
        raise StageError(f"{name}: not a readable image: {reason(error)}") from None
    if mode not in MODES:
        raise StageError(f"{name}: has the mode {mode}; convert it to grayscale (L) or RGB")
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def reader(img_dir: str | Path) -> Callable[[str], bytes]:
    """A function that maps an image's name to the bytes of its file, in a folder (of files or of shards) or a ZIP.

    Raises:
        StageError: the folder or ZIP is missing or, raised by the function, the image is missing or damaged.
    """
    where = Path(img_dir)
    if where.is_dir() and shards.has_shards(where):
        of_shards = shards.reader(where)
        return lambda name: _read_or_fail(where, name, lambda: of_shards(name))
    if where.is_dir():
        return lambda name: _read_or_fail(where, name, (where / name).read_bytes)
    try:
        archive = zipfile.ZipFile(where)
    except FileNotFoundError:
        raise StageError(f"{where} is missing; `dvc repro annotate` makes it") from None
    except zipfile.BadZipFile as error:
        raise StageError(f"{where}: neither a folder nor a ZIP of images: {error}") from None
    return lambda name: _read_or_fail(where, name, lambda: archive.read(name))


def _read_or_fail(where: Path, name: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (FileNotFoundError, KeyError):
        raise StageError(f"{where}: has no image {name!r}, which the annotations list") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        raise StageError(f"{where}: the image {name!r} is damaged: {error}") from None


def stack(names: Iterable[str], count: int, read: Callable[[str], bytes], shape: tuple[int, ...] = ()) -> np.ndarray:
    """Read ``count`` images into one array, ``(N, C, H, W)`` uint8.

    Raises:
        StageError: an image is missing, damaged, or its shape is not ``shape`` (without it: that of the first image).
    """
    pixels = np.empty((count, *shape), np.uint8)
    for index, name in enumerate(names):
        image = decode(read(name), name)
        if index == 0 and not shape:
            pixels = np.empty((count, *image.shape), np.uint8)
        elif image.shape != pixels.shape[1:]:
            wanted, got = ("x".join(map(str, shape)) for shape in (pixels.shape[1:], image.shape))
            raise StageError(f"{name}: is {got} (channels x height x width), but the images before it are {wanted}")
        pixels[index] = image
    return pixels


def histogram(pixels: np.ndarray) -> np.ndarray:
    """How often each value occurs in each channel of ``(N, C, H, W)`` uint8 images, ``(C, 256) int64``."""
    return np.stack([np.bincount(pixels[:, channel].ravel(), minlength=256) for channel in range(pixels.shape[1])])


def mean_and_std(batches: Iterable[np.ndarray]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of ``(N, C, H, W)`` uint8 images, on the scale 0 to 1."""
    return mean_and_std_of(sum(histogram(pixels) for pixels in batches))


def mean_and_std_of(histogram: Any) -> tuple[list[float], list[float]]:
    """The same from the histogram of all images, in whole numbers: exact, and the same on every machine."""
    means, stds = [], []
    for of_channel in histogram:
        counts = [int(count) for count in of_channel]
        total, first, second = (sum(value**power * count for value, count in enumerate(counts)) for power in (0, 1, 2))
        means.append(first / (255 * total))
        stds.append(math.sqrt(total * second - first**2) / (255 * total))
    return means, stds
