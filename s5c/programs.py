"""Compiled programs are kept between commands: what XLA has compiled once on a machine is not compiled again.

JAX's persistent cache, in a folder that belongs to one processor and one version of jaxlib: a home folder shared by
different machines keeps their programs apart. `JAX_COMPILATION_CACHE_DIR` names another folder,
`JAX_ENABLE_COMPILATION_CACHE=false` switches it off.

On some processors XLA rejects every program that it has stored itself, and prints two lines for each (jax issue 38445).
Whether it does is tried with one small program, once per folder.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TRIED = "tried"
"""Name of the file that holds what came of the trial."""
WORKS, REJECTED = "works", "rejected"
LARGEST = 1 << 30
"""Bytes that are kept; of more, the programs that were used longest ago go."""
OFTEN = 24 * 3600.0
"""Seconds between two looks at the size."""


def keep(parent: Path | None = None) -> Path | None:
    """Lets JAX keep compiled programs, unless the environment says where, or that it should not.

    Args:
        parent: folder of the caches of all processors; None for `$XDG_CACHE_HOME/s5c/programs`.

    Returns:
        The folder; None if nothing is kept by this function.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    options = jax.config.values  # as the environment or the caller has set them
    if options["jax_compilation_cache_dir"] or not options["jax_enable_compilation_cache"]:
        return None
    folder = (parent or _usual()) / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return None
        _prune(folder)
    except OSError:  # a full disk, a home folder that cannot be written: commands work without a cache
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if not _works(folder):
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
        return None
    return folder


def _usual() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "s5c" / "programs"


def _machine() -> str:
    """Returns a name for the processor and the compiler."""
    import jaxlib

    said = [platform.machine(), platform.processor(), sys.platform]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        said += sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))})
    return f"{jaxlib.__version__}-{hashlib.sha256(repr(said).encode()).hexdigest()[:10]}"


def _works(folder: Path) -> bool:
    """Returns whether programs that were stored are taken back; tries it where nobody has."""
    note = folder / TRIED
    with suppress(OSError):
        if (known := note.read_text("utf-8")) in (WORKS, REJECTED):
            return known == WORKS
    found = WORKS if _try() else REJECTED
    with suppress(OSError):
        partial = note.with_name(f"{TRIED}.{os.getpid()}")
        partial.write_text(found, "utf-8")
        partial.replace(note)
    return found == WORKS


def _try() -> bool:
    """Compiles one program, forgets it and compiles it again, which takes it from the cache or complains."""
    import jax
    import jax.numpy as jnp

    def program(x: jax.Array) -> jax.Array:
        return jnp.sort(jnp.cumsum(x) * 3)[::-1]

    with _complaints() as heard:
        for _ in range(2):
            jax.jit(program)(jnp.arange(8.0)).block_until_ready()
            jax.clear_caches()
    return "cpu_aot_loader" not in heard[0]


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collects what is written to standard error, by libraries in C++ too; the text is there once the block ends."""
    heard = [""]
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield heard
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            heard[0] = file.read().decode("utf-8", "replace")


def _prune(folder: Path, largest: int = LARGEST) -> None:
    """Removes the programs that were used longest ago where there is more than is kept."""
    looked = folder / "looked"
    if looked.exists() and time.time() - looked.stat().st_mtime < OFTEN:
        return
    looked.touch()
    sizes = []
    for path in folder.glob("*-cache"):
        with suppress(OSError):  # another process removes it, too
            facts = path.stat()
            sizes.append((max(facts.st_atime, facts.st_mtime), facts.st_size, path))
    total = sum(size for _, size, _ in sizes)
    for _, size, path in sorted(sizes):
        if total <= largest:
            break
        with suppress(OSError):
            path.unlink()
        total -= size
