"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""Parameters of `mallopt`, from glibc's malloc.h."""

CHOSEN = ("MALLOC_", "GLIBC_TUNABLES")
"""Beginnings of environment variables by which somebody has chosen for the process."""


def keep_freed_memory() -> bool:
    """Makes glibc keep what is freed for the next allocation; call it before anything large is allocated.

    On a CPU every step allocates its temporary arrays anew. glibc maps large ones and unmaps them when they are freed,
    so the system has to find and to zero every page again: a quarter of a training step of smnist_s5 on one core, and
    more of an evaluation. The process never gets smaller than it was at its peak. Other systems, other C libraries and
    processes with a choice of their own (`MALLOC_ARENA_MAX` and the like) are left as they are.

    Returns:
        Whether it was done.
    """
    if any(name.startswith(CHOSEN) for name in os.environ) or not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Other arenas than the first are maps of limited size: large arrays would not fit into them.
    wanted = ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1))
    return all(mallopt(parameter, value) for parameter, value in wanted)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows has no confstr, other C libraries not this name
        return False
