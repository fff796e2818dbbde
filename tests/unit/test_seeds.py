"""Seeds derived from one."""

import itertools

from classifier.seeds import derive_seed, derive_seeds


def test_derived_seeds_do_not_collide() -> None:
    keys = [(seed, use, n) for seed in range(20) for use in ("order", "step") for n in range(50)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
    assert derive_seed(0, "order", 1) == derive_seed(0, "order", 1)


def test_seed_series_equals_single_seeds() -> None:
    series = itertools.islice(derive_seeds(0, "step", start=150), 250)
    assert list(series) == [derive_seed(0, "step", step) for step in range(150, 400)]
