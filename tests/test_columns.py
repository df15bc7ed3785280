"""The columns of rows are known in one place: to mypy, and of all stored rows; `test_rows` has what jobs write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from s5c.report.collect import restore
from s5c.report.csvfile import read_csv
from s5c.report.row import Averaged, Row, columns

REPOSITORY = Path(__file__).resolve().parents[1]

READER = """
from s5c.report.row import Averaged, Row

def read(row: Row, mean: Averaged) -> None:
    print(row["test_accuracy"], row.get("latency_ms"), mean["points_lost"])
    print(row["test_acuracy"])
    print(row.get("latency"))
    print(f"{mean.get('lost')}")

def write() -> Row:
    return {"test_acuracy": 0.5}
"""


def test_a_typing_error_in_the_name_of_a_column_is_one_of_mypy(tmp_path: Path) -> None:
    path = tmp_path / "reader.py"
    path.write_text(READER)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(tmp_path), str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    found = [line.partition("reader.py:")[2] for line in done.stdout.splitlines() if "error:" in line]
    assert [line.partition(":")[0] for line in found] == ["6", "7", "8", "11"], done.stdout + done.stderr
    for line, name in zip(found, ("test_acuracy", "latency", "lost", "test_acuracy"), strict=True):
        assert f'"{name}"' in line


def test_every_column_says_what_it_holds() -> None:
    told = columns()
    assert list(told) == list(Row.__annotations__)
    assert all(isinstance(text, str) and len(text) > 5 for text in told.values())
    assert set(told) < set(Averaged.__annotations__)


@pytest.mark.few(3)
@pytest.mark.parametrize("path", sorted((REPOSITORY / "results/published").glob("*/table.csv")), ids=str)
def test_stored_rows_have_known_columns_only(path: Path) -> None:
    rows, _ = restore(path.parent)
    assert {key for row in rows for key in row} <= set(columns())
    assert len(read_csv(path)) == len(rows)
