"""The table of all fault campaigns: what was tried, and how often it was survived.

Each campaign replaces its own rows in faults.csv; faults.md shows those of all campaigns.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from s5c.atomic import write_text
from s5c.report.cells import table
from s5c.report.csvfile import read_csv, write_csv

CAMPAIGNS = {
    "trainings": "Trainings, disturbed, then given the same command again",
    "records": "What finished jobs leave behind, damaged, then read",
    "reductions": "Reductions, disturbed, then given the same command again",
}
TITLE = """# Faults

Made by `make faults ARGS="--output results/published/faults"`. A disturbance is survived if the same command then ends
bit for bit as if nothing had happened, or if damage is named together with the way out; anything else fails the run.
"""


class Counted(NamedTuple):
    """One kind of fault.

    Attributes:
        fault: in words.
        tried: how often.
        survived: how often of these.
    """

    fault: str
    tried: int
    survived: int


def record(folder: Path, campaign: str, rows: Sequence[Counted]) -> None:
    """Replaces the rows of a campaign in faults.csv, and writes faults.md.

    Args:
        folder: of both.
        campaign: one of `CAMPAIGNS`.
        rows: all that was tried.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, today = folder / "faults.csv", datetime.datetime.now(datetime.UTC).date().isoformat()
    others = [row for row in read_csv(file) if row["campaign"] != campaign] if file.is_file() else []
    every = [*others, *({"campaign": campaign, **row._asdict(), "date": today} for row in rows)]
    every.sort(key=lambda row: list(CAMPAIGNS).index(row["campaign"]))
    write_csv(every, file)
    parts = [TITLE]
    for name, title in CAMPAIGNS.items():
        if mine := [row for row in every if row["campaign"] == name]:
            sums = [sum(row[key] for row in mine) for key in ("tried", "survived")]
            cells = [[row["fault"], str(row["tried"]), str(row["survived"])] for row in mine]
            counted = table(["Fault", "Tried", "Survived"], [*cells, ["all", *map(str, sums)]])
            parts.append(f"## {title}\n\n{counted}\n\n{mine[0]['date']}\n")
    write_text(folder / "faults.md", "\n".join(parts))
