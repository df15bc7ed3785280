"""Freed memory stays with the process, unless somebody has chosen otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource
import numpy as np
from s5c.allocator import keep_freed_memory

done = keep_freed_memory()
for _ in range(3):
    np.ones(2**24)  # 128 MiB, freed at once
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**24)
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def faults(**environment: str) -> tuple[bool, int]:
    """Returns whether it was done, and how many pages ten arrays of 128 MiB cost after three of them."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="page faults are counted on Linux")
def test_large_arrays_reuse_the_pages_of_freed_ones() -> None:
    kept, count = faults()
    left, more = faults(MALLOC_ARENA_MAX="4")
    assert not left, "a choice made for the process is respected"
    if not kept:
        pytest.skip("no glibc")
    assert count < 100 < more, "one page or one huge page at a time, ten arrays have to be faulted in again"
