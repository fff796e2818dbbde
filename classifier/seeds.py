"""Randomness that is derived and never stored, so that a resumed run draws what the undisturbed one drew."""

import hashlib
import itertools
from collections.abc import Iterator

BLOCK = 100


def derive_seed(*key: int | str) -> int:
    """A seed of 63 bits for one use, named by its key: ``derive_seed(seed, "order", epoch)``.

    Hashing keeps uses apart, where ``seed + epoch`` would give seed 0 in epoch 1 the draws of seed 1 in epoch 0.
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def derive_seeds(*key: int | str, start: int) -> Iterator[int]:
    """``derive_seed(*key, start)``, ``derive_seed(*key, start + 1)`` and so on, without end.

    A hash between other work takes 30 microseconds, since the caches are cold; many in a row take 2 each.
    """
    for first in itertools.count(start, BLOCK):
        yield from [derive_seed(*key, number) for number in range(first, first + BLOCK)]
