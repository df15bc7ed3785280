"""Work on all cores whose result does not depend on how many there are."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from s5c.errors import UserError

A = TypeVar("A")
R = TypeVar("R")

AHEAD = 4
"""Results per process that may wait for their turn; bounds the memory if the caller is slow."""


CHUNKS_PER_WORKER = 16
"""Worth a worker process, which takes about a second to start; a chunk takes about 0.1 s."""


def worker_count(processes: int | None, chunks: int) -> int:
    """Returns how many processes to use for about so many chunks: `processes`, or as many cores as are worth it.

    Raises:
        UserError: `processes` is below 1.
    """
    if processes is not None and processes < 1:
        raise UserError(f"processes={processes}: give 1 or more, or None for one per core.")
    if processes is not None:
        return min(processes, max(chunks, 1))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, chunks // CHUNKS_PER_WORKER))


def in_order(function: Callable[[A], R], arguments: Iterable[A], processes: int) -> Generator[R, None, None]:
    """Yields `function(a)` for every `a`, in order, computed ahead of the caller; `arguments` may be endless.

    Args:
        function: a function of a module, or a partial of one. Workers import that module and the running script.
        arguments: taken as needed.
        processes: 1 computes here, without a worker.

    Raises:
        UserError: a worker process ended early.
    """
    if processes == 1:
        yield from map(function, arguments)
        return
    # Not "fork": a child forked from a process in which JAX runs threads can hang.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    waiting = iter(arguments)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_follow_parent) as pool:
        started: deque[Future[R]] = deque()
        try:
            while True:
                room = AHEAD * processes - len(started)
                started.extend(pool.submit(function, a) for a in itertools.islice(waiting, room))
                if not started:
                    return
                yield started.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process ended early. Either memory ran out, or the running script starts its work when it is "
                "imported: put that under `if __name__ == '__main__':`, or pass processes=1."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _follow_parent() -> None:
    """Has this worker end with the process that started it, however that ends.

    A worker waits for work on a queue whose other end it holds itself, so that a parent killed by `kill -9` leaves it
    waiting for ever; with it the server it was forked from, which ends with the last worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the parent answers it
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
