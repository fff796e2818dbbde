"""Progress bars: on a terminal only, after two seconds, removed when done, and on rank 0 of a distributed run only."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, description: str = "", **options: Any) -> Any:
    """A tqdm bar around an iterable, or one without, which its owner updates."""
    disable = None if os.environ.get("RANK", "0") in ("", "0") else True  # None: unless the output is a terminal
    return tqdm(items, desc=description, delay=2, disable=disable, leave=False, **options)
