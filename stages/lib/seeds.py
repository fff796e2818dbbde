"""Randomness that is derived and never stored, so that a resumed run draws what the undisturbed one drew."""

import hashlib


def derive(*key: int | str) -> int:
    """A seed of 63 bits for one use, named by its key: ``derive(seed, "order", epoch)``.

    Hashing keeps uses apart, where ``seed + epoch`` would give seed 0 in epoch 1 the draws of seed 1 in epoch 0.
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1
