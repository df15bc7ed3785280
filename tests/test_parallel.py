"""Work in several processes leaves none of them behind, whatever happens to the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GENERATE = """
from s5c.data.generator.listops import generate
generate(100_000, seed=0, processes=2, progress=lambda found: print(found, flush=True))
"""


def of_session(number: int) -> list[int]:
    """Returns the numbers of all processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = path.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z":
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_a_generation_that_is_ended(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", GENERATE],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline(), "it has begun"
    assert len(of_session(process.pid)) >= 4, "the process, two workers and what starts them"
    process.send_signal(number)
    deadline = time.monotonic() + 20
    while (left := of_session(process.pid)) and time.monotonic() < deadline:
        process.poll()
        time.sleep(0.05)
    for survivor in left:
        os.kill(survivor, signal.SIGKILL)
    assert left == []
    assert process.wait() in (-number, 1)
