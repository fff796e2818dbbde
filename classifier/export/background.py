"""Is the background of an image light or dark? A model trained on one kind fails on the other."""

import numpy as np

MIN_FRACTION = 0.99  # the fraction of images that must share one kind of background, or the dataset counts as mixed


def light(images: np.ndarray) -> np.ndarray:
    """Whether each of ``(N, C, H, W) uint8`` images has a light background, ``(N,) bool``.

    The background is light if the pixels of the outermost ring are above 127.5 on average. On FashionMNIST's 70,000
    images and their inverses this is never wrong. The median of the ring, the other simple rule, was wrong for two of
    the training images.
    """
    ring = [images[..., 0, :], images[..., -1, :], images[..., 1:-1, 0], images[..., 1:-1, -1]]
    pixels = np.concatenate([side.reshape(len(images), -1) for side in ring], axis=1)
    return np.asarray(pixels.mean(axis=1) > 127.5)


def kind(images: np.ndarray) -> str:
    """The background of nearly all images, ``light`` or ``dark``; otherwise ``mixed``."""
    fraction = light(images).mean()
    return "light" if fraction >= MIN_FRACTION else "dark" if fraction <= 1 - MIN_FRACTION else "mixed"
