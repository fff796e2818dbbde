"""Progress bars for people: on a terminal, after two seconds, and gone when done."""

from collections.abc import Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")


def bar(items: Iterable[Item], description: str, **options: Any) -> Iterable[Item]:
    """Wrap an iterable; quiet when the output is no terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=description, delay=2, disable=None, leave=False, **options)
