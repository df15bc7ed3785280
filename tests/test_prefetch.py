"""Batches prepared in the background: in order, ahead of their use, and never a thread left behind."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from s5c.training.prefetch import AHEAD, prefetch

PATIENCE = 30.0
"""Seconds until a test that would wait for ever fails instead."""


def threads() -> list[str]:
    gc.collect()
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def none_left_behind() -> Iterator[None]:
    assert threads() == []
    yield
    assert threads() == []


@pytest.mark.parametrize("number", [0, 1, AHEAD, 7])
def test_gives_every_item_once_and_in_order(number: int) -> None:
    assert list(prefetch(range(number), str)) == [str(i) for i in range(number)]


def test_an_item_may_be_none() -> None:
    assert list(prefetch([None, None], lambda item: item)) == [None, None]


def test_prepares_the_next_item_while_one_is_in_use() -> None:
    """The second item exists only once the consumer holds the first: taking turns would wait for ever."""
    in_use, prepared = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert in_use.wait(PATIENCE)
        yield 1

    def prepare(item: int) -> int:
        if item == 1:
            prepared.set()
        return item

    with closing(prefetch(items(), prepare)) as ready:
        assert next(ready) == 0
        in_use.set()
        assert prepared.wait(PATIENCE)
        assert list(ready) == [1]


def test_runs_ahead_by_a_bounded_number_of_items() -> None:
    taken: list[int] = []
    with closing(prefetch(itertools.count(), lambda item: taken.append(item) or item)) as ready:
        for expected in range(5):
            assert next(ready) == expected
            assert len(taken) <= expected + 1 + AHEAD
    assert len(taken) <= 5 + AHEAD


def test_works_in_one_other_thread() -> None:
    workers: set[int] = set()
    list(prefetch(range(9), lambda _: workers.add(threading.get_ident())))
    assert len(workers) == 1 and threading.get_ident() not in workers


@pytest.mark.few(1)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("source", ["items", "prepare"])
def test_an_error_arrives_after_the_items_before_it(error: type[BaseException], source: str) -> None:
    def fail_at_two(item: int) -> int:
        if item == 2:
            raise error("broken")
        return item

    items, prepare = range(9), fail_at_two
    arrived: list[int] = []
    with pytest.raises(error, match="broken"):
        stream = prefetch(items, prepare) if source == "prepare" else prefetch(map(fail_at_two, items), lambda i: i)
        for item in stream:
            arrived.append(item)
    assert arrived == [0, 1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_thread_ends_with_a_consumer_that_fails(error: type[BaseException]) -> None:
    caught: list[Any] = []
    try:
        with closing(prefetch(itertools.count(), lambda item: item)) as ready:
            for _ in ready:
                raise error
    except error as e:
        caught.append(e)  # its traceback keeps the frame, and with it the generator, alive
        assert threads() == []
    assert caught


def test_the_thread_ends_with_a_consumer_that_has_enough() -> None:
    with closing(prefetch(itertools.count(), lambda item: item)) as ready:
        assert next(ready) == 0
        assert threads() != []
    assert threads() == []
