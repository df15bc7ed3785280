"""The columns of rows are known in one place: to mypy, to what writes rows, and of all rows that are stored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jobs
import pytest

from s5c.report.collect import restore
from s5c.report.csvfile import read_csv
from s5c.report.row import Averaged, Row, columns
from s5c.report.rowfile import read_rows

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


@pytest.mark.parametrize("path", sorted((REPOSITORY / "results/published").glob("*/table.csv")), ids=str)
def test_stored_rows_have_known_columns_only(path: Path) -> None:
    rows, _ = restore(path.parent)
    assert {key for row in rows for key in row} <= set(columns())
    assert len(read_csv(path)) == len(rows)


def test_what_a_job_writes_are_known_columns(tmp_path: Path, without_figures: None) -> None:
    options = ("reduction=last", "reduction.ratio=0.5", "evaluation.latency=true", "evaluation.rounds=1")
    assert jobs.run("train", *options, folder=tmp_path).code == 0
    (file,) = tmp_path.rglob("rows.jsonl")
    written = {key for row in read_rows(file) for key in row}
    late = {"points_lost_se", "above_last", "above_last_se", "error_h2_quadratic", "output_bound"}
    assert set(columns()) - late == written, "each column is written, and no other"
