"""Compiled programs are kept, by machine, within limits, and only where XLA takes them back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s5c import programs

CODE = """
import sys
from pathlib import Path
from s5c import programs
print(programs.keep(Path(sys.argv[1])))
import jax
jax.jit(lambda x: x * 2 + 1)(3.0)
"""


def run(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    kept = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    env = {key: value for key, value in os.environ.items() if key not in kept} | more
    return subprocess.run([sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, env=env)


def programs_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*-cache")}


def test_a_second_process_compiles_nothing_new(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first.returncode == 0 and first.stdout.startswith(str(tmp_path)), first.stderr
    stored = programs_in(tmp_path)
    assert any("lambda" in name for name in stored)
    second = run(tmp_path, JAX_LOG_COMPILES="1", JAX_EXPLAIN_CACHE_MISSES="1")
    assert programs_in(tmp_path) == stored and "cpu_aot_loader" not in second.stderr


@pytest.mark.parametrize("variable", ["JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"])
def test_the_environment_decides(variable: str, tmp_path: Path) -> None:
    value = "false" if "ENABLE" in variable else str(tmp_path / "own")
    done = run(tmp_path / "ours", **{variable: value})
    assert done.stdout.strip() == "None" and not (tmp_path / "ours").exists()


def test_where_stored_programs_are_rejected_none_are_kept(tmp_path: Path) -> None:
    folder = Path(run(tmp_path).stdout.strip())
    assert (folder / programs.TRIED).read_text() == programs.WORKS
    (folder / programs.TRIED).write_text(programs.REJECTED)
    before = programs_in(tmp_path)
    assert run(tmp_path).stdout.strip() == "None" and programs_in(tmp_path) == before


def test_complaints_of_libraries_are_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with programs._complaints() as heard:
        os.write(2, b"E0000 cpu_aot_loader.cc:195] Target machine feature +prefer-no-gather is not supported\n")
    os.write(2, b"after\n")
    assert "cpu_aot_loader" in heard[0] and capfd.readouterr().err == "after\n"


def test_a_folder_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path / "file")
    assert done.returncode == 0 and done.stdout.strip() == "None"


def test_the_oldest_go_where_there_is_too_much(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    programs._prune(tmp_path, largest=250)
    assert programs_in(tmp_path) == {"new-cache", "middle-cache"}
    (tmp_path / "more-cache").write_bytes(bytes(500))
    programs._prune(tmp_path, largest=250)
    assert len(programs_in(tmp_path)) == 3, "looked less than a day ago"
