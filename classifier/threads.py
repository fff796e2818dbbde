"""Work on several threads or processes, with results in order and a bounded number of items ahead."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    ahead: int,
    initializer: Callable[[], None] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Each item with the function's result, in order.

    Args:
        function: called on a thread.
        items: read as needed.
        threads: at most.
        ahead: items that may be started before their results are asked for; memory grows with it.
        initializer: called once on each thread.
    """
    with ThreadPoolExecutor(threads, initializer=initializer) as pool:
        yield from in_order(lambda item: pool.submit(function, item), items, ahead)


def in_order(
    submit: Callable[[Item], "Future[Result]"], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with the result of what ``submit`` starts for it; see ``map_ahead``."""
    items = iter(items)

    def start(count: int) -> Iterator[tuple[Item, Future[Result]]]:
        return ((item, submit(item)) for item in itertools.islice(items, count))

    waiting = deque(start(ahead))
    try:
        while waiting:
            item, future = waiting.popleft()
            yield item, future.result()
            waiting.extend(start(1))
    finally:
        for _, future in waiting:
            future.cancel()
