"""Augmentation."""

import itertools

from classifier.train.augment import cutout, hflip, rotate, translate

import torch


def test_hflip_mirrors_about_half_of_the_images() -> None:
    images = torch.arange(6, dtype=torch.uint8).reshape(1, 1, 2, 3).repeat(1000, 1, 1, 1)
    flipped = hflip(images)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 400 < mirrored.sum() < 600


def test_translate_moves_each_image_by_its_own_draw() -> None:
    images = torch.zeros(500, 2, 9, 7, dtype=torch.uint8)
    images[:, :, 4, 3] = 255
    moved = translate(images, 2)
    assert moved.shape == images.shape
    where = moved[:, 0].flatten(1).argmax(1)
    moves = {divmod(place, 7) for place in where.tolist()}
    assert moves == {*itertools.product(range(2, 7), range(1, 6))}  # by up to 2 from the center, (4, 3)
    assert torch.equal(moved[:, 0], moved[:, 1])  # channels move together


def test_cutout_blanks_one_square() -> None:
    erased = cutout(torch.full((300, 1, 9, 9), 255, dtype=torch.uint8), 4) == 0
    assert set(erased.flatten(1).sum(1).tolist()) <= {4, 6, 8, 9, 12, 16}  # cut off at the edges
    assert (erased.flatten(1).sum(1) == 16).any()


def test_rotate_turns_each_image_about_its_center() -> None:
    pixels = torch.zeros(300, 2, 21, 31, dtype=torch.uint8)
    pixels[:, :, 9:12, 14:17] = 255  # the center stays
    pixels[:, :, 9:12, 25:28] = 255  # 11 to the right of it
    turned = rotate(pixels, 30).float()
    assert (turned[:, 0, 10, 15] > 200).all()
    right = turned[:, 0, :, 20:]
    y = (right.sum(2) * torch.arange(21)).sum(1) / right.sum((1, 2)) - 10
    assert -6 < y.min() < -4.5  # 11 sin(30 degrees) is 5.5
    assert 4.5 < y.max() < 6
    assert torch.equal(turned[:, 0], turned[:, 1])  # channels turn together
