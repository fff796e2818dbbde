"""Augmentation of whole batches, drawn anew for every image from torch's global generator.

All functions take ``(N, C, H, W) uint8`` and return the same: bytes cost a quarter of what floats would.
"""

from classifier.config.schema import Augment

import torch


def augment(images: torch.Tensor, config: Augment) -> torch.Tensor:
    """Apply what ``train.augment`` asks for to one batch."""
    if config.hflip:
        images = hflip(images)
    if config.translate_pixels:
        images = translate(images, config.translate_pixels)
    if config.rotate_degrees:
        images = rotate(images, config.rotate_degrees)
    if config.cutout_pixels:
        images = cutout(images, config.cutout_pixels)
    return images


def hflip(images: torch.Tensor) -> torch.Tensor:
    """Mirror each image left to right with probability one half."""
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(-1), images)


def translate(images: torch.Tensor, max_pixels: int) -> torch.Tensor:
    """Move each image by up to ``max_pixels`` in both directions; the border is filled with 0 (black)."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, [max_pixels] * 4)
    down, right = torch.randint(0, 2 * max_pixels + 1, (2, count), device=images.device)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view of all places: (N, C, rows, columns, H, W)
    return windows[torch.arange(count, device=images.device), :, down, right]


def rotate(images: torch.Tensor, max_degrees: float) -> torch.Tensor:
    """Rotate each image about its center by up to ``max_degrees`` either way; the corners are filled with 0 (black)."""
    height, width = images.shape[-2:]
    angles = torch.deg2rad((2 * torch.rand(len(images), device=images.device) - 1) * max_degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # In coordinates of -1 to 1 in both directions, so the image's own shape enters.
    rows = [torch.stack(row, 1) for row in ((cos, -sin * height / width, zero), (sin * width / height, cos, zero))]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    rotated = torch.nn.functional.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return rotated.round().to(torch.uint8)


def cutout(images: torch.Tensor, side: int) -> torch.Tensor:
    """Set one ``side`` x ``side`` square of each image to 0; its center is anywhere in the image (DeVries 2017)."""
    height, width = images.shape[-2:]
    y = torch.randint(0, height, (len(images), 1, 1, 1), device=images.device)
    x = torch.randint(0, width, (len(images), 1, 1, 1), device=images.device)
    rows = torch.arange(height, device=images.device)[None, None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, None, :]
    top, left = y - side // 2, x - side // 2
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return images.masked_fill(inside, 0)
