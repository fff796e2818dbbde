"""From an image file to the pixels of a model: the one way for training, evaluation and prediction.

Turned upright by its EXIF orientation, the first frame of an animation, 16 bits scaled to 8, transparency put on a
stated background, palette, CMYK and 1 bit converted, then brought to the size of the model.
"""

from dataclasses import dataclass

from classifier.data.images import MAX_MEGAPIXELS, Content, open_image, reason
from classifier.errors import StageError

import numpy as np
from PIL import Image, ImageOps

FILTER = Image.Resampling.LANCZOS
GRAY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Preprocessing:
    """The way from an image of any size and mode to the pixels of a model.

    Attributes:
        channels: 1 for grayscale, 3 for RGB.
        height, width: in pixels.
        fit: how an image of another shape gets that size: ``pad`` with the background, ``crop`` what sticks out, or
            ``stretch``.
        background: ``black`` or ``white``, behind transparency and padding.
        max_megapixels: of an image; a larger one is refused.
    """

    channels: int
    height: int
    width: int
    fit: str = "stretch"
    background: str = "black"
    max_megapixels: float = MAX_MEGAPIXELS

    def __call__(self, content: Content, name: str, invert: bool = False) -> np.ndarray:
        """The pixels of an image in any format that Pillow reads, ``(C, H, W) uint8``.

        Raises:
            StageError: it is not a readable image.
        """
        try:
            with open_image(content, self.max_megapixels) as image:
                pixels = np.asarray(self.convert(image, invert))
        except Exception as error:  # Pillow's decoders raise almost anything for a damaged file
            raise StageError(f"{name}: not a readable image: {reason(error)}") from None
        return pixels.reshape(self.height, self.width, self.channels).transpose(2, 0, 1)

    def convert(self, image: Image.Image, invert: bool = False) -> Image.Image:
        """The image with the mode and size of the model."""
        upright = eight_bits(ImageOps.exif_transpose(image), image.format)
        if upright.has_transparency_data:
            behind = Image.new("RGBA", upright.size, self.background)
            upright = Image.alpha_composite(behind, upright.convert("RGBA"))
        converted = upright.convert("L" if self.channels == 1 else "RGB")
        if converted.size != (self.width, self.height):
            box, size, place = self.layout(*converted.size)
            inner = converted.crop(box).resize(size, FILTER)
            converted = inner
            if self.fit == "pad":
                converted = Image.new(inner.mode, (self.width, self.height), self.background)
                converted.paste(inner, place)
        return ImageOps.invert(converted) if invert else converted

    def layout(self, width: int, height: int) -> tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int]]:
        """The box that is cut out of an image, the size that it gets, and where it lies in the result.

        In whole numbers, rounded half up, so that programs in other languages find the same.
        """
        box, size, place = (0, 0, width, height), (self.width, self.height), (0, 0)
        is_wide = width * self.height >= height * self.width
        if self.fit == "crop" and is_wide:
            kept = max(1, (2 * height * self.width + self.height) // (2 * self.height))
            left = (width - kept) // 2
            box = (left, 0, left + kept, height)
        elif self.fit == "crop":
            kept = max(1, (2 * width * self.height + self.width) // (2 * self.width))
            top = (height - kept) // 2
            box = (0, top, width, top + kept)
        elif self.fit == "pad" and is_wide:
            size = (self.width, max(1, (2 * height * self.width + width) // (2 * width)))
            place = (0, (self.height - size[1]) // 2)
        elif self.fit == "pad":
            size = (max(1, (2 * width * self.height + height) // (2 * height)), self.height)
            place = ((self.width - size[0]) // 2, 0)
        return box, size, place


def is_gray(image: Image.Image) -> bool:
    """Whether an image has no colors, by its mode or its palette."""
    if image.mode in ("P", "PA") and image.palette:
        colors = np.frombuffer(image.palette.tobytes(), np.uint8)
        width = len(image.palette.mode)
        entries = colors[: len(colors) // width * width].reshape(-1, width)[:, :3]
        return bool((entries == entries[:, :1]).all())
    return image.mode in GRAY_MODES


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once turned upright."""
    turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 exchange the sides
    return (image.height, image.width) if turned else image.size


def eight_bits(image: Image.Image, form: str | None) -> Image.Image:
    """Scale 16 bits a pixel to 8, by the depth of the file and not by its content; Pillow would clip them."""
    if image.mode.startswith("I;16") or (image.mode == "I" and form == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode[0] in "IF":
        raise ValueError("has 32 bits a pixel, whose scale the file does not state; save it with 8 or 16")
    return image
