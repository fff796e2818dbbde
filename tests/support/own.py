"""A small set of a person's own images: three colors, in every form that image files come in."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 210)}
SIZE = (40, 30)  # width and height of most of them


def picture(color: tuple[int, int, int], seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A color with noise, and a bright upper left corner: upside down it is another picture."""
    random = np.random.default_rng(seed)
    pixels = np.clip(random.normal(color, 25, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    pixels[: size[1] // 3, : size[0] // 4] = 240
    return Image.fromarray(pixels)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def zoo(color: tuple[int, int, int], seed: int) -> dict[str, bytes]:
    """The same picture as files of many kinds, by name."""
    image = picture(color, seed)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    see_through = image.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(image.size))
    palette = image.quantize(16)
    sixteen = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return {
        "plain.png": encode(image, "PNG"),
        "photo.JPG": encode(image, "JPEG", quality=95),
        "turned.jpeg": encode(image, "JPEG", quality=95, exif=exif),
        "transparent.png": encode(see_through, "PNG"),
        "palette.gif": encode(palette, "GIF"),
        "palette.png": encode(palette, "PNG", transparency=0),
        "animation.gif": encode(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "print.tif": encode(image.convert("CMYK"), "TIFF"),
        "one bit.png": encode(image.convert("1"), "PNG"),
        "sixteen.png": encode(sixteen, "PNG"),
        "gray alpha.png": encode(see_through.convert("LA"), "PNG"),
        "bitmap.bmp": encode(image, "BMP"),
        "web.webp": encode(image, "WEBP", lossless=True),
        "wide.png": encode(picture(color, seed, (91, 17)), "PNG"),
        "tall.png": encode(picture(color, seed, (13, 64)), "PNG"),
    }


def write(folder: Path) -> Path:
    """All of them, in a folder for each color."""
    for number, (name, color) in enumerate(COLORS.items()):
        (folder / name).mkdir(parents=True)
        for seed in range(2):
            for file, content in zoo(color, 10 * number + seed).items():
                (folder / name / f"{seed} {file}").write_bytes(content)
    return folder
