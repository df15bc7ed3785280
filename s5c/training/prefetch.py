"""Work done ahead of its use, in the background: the next batch is loaded while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

AHEAD = 2
"""Items prepared ahead: one hides the preparation, the second its variation. Each costs a batch of device memory."""


def prefetch(items: Iterable[T], prepare: Callable[[T], U]) -> Generator[U, None, None]:
    """Yields `prepare(item)` for every item in order; one thread takes and prepares the next `AHEAD` meanwhile.

    What the items or `prepare` raise is raised here, after the items before it. Close the generator
    (`contextlib.closing`) where it may be left early: that waits for the item in preparation and ends the thread.

    Args:
        items: taken from in the background thread only.
        prepare: called in the background thread, once per item.
    """
    source = iter(items)

    def following() -> tuple[U] | None:
        for item in source:
            return (prepare(item),)
        return None

    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        prepared = deque(pool.submit(following) for _ in range(AHEAD))
        while (result := prepared.popleft().result()) is not None:
            prepared.append(pool.submit(following))
            yield result[0]
    finally:
        pool.shutdown(cancel_futures=True)
