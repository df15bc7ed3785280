"""How often reduced networks of a task with two classes answer either, from the answers that runs keep.

    python -m s5c.reduce -m checkpoint=zoo:imdb_small_s5 reduction=last,aire,random reduction.ratio=0.8 \
        evaluation.latency=false evaluation.test_examples=5000 name=imdb_small_answers
    python scripts/answer_shares.py imdb_small_answers

writes results/published/answers/answers.csv: for every network its accuracy, the share of examples that it calls class
1, and the share of each class that it gets right. Two networks of equal loss may differ in accuracy by nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from s5c import config as settings
from s5c.data.part import scored
from s5c.locations import results_dir
from s5c.pipeline.trained import load_task
from s5c.pipeline.zoo import PREFIX, zoo_dir
from s5c.report.arms import label, target
from s5c.report.collect import collect
from s5c.report.csvfile import Record, write_csv
from s5c.report.row import FULL


def shares(correct: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns accuracy, share of answers that are class 1, and share of either class answered rightly.

    Args:
        correct: whether each example was answered rightly, (n,) bool.
        labels: class of each example, 0 or 1, (n,) int.
    """
    said_one = correct == (labels == 1)
    return {
        "accuracy": float(correct.mean()),
        "said_1": float(said_one.mean()),
        "right_of_0": float(correct[labels == 0].mean()),
        "right_of_1": float(correct[labels == 1].mean()),
    }


def made(runs: Path) -> list[Record]:
    """Returns a row for every network of some runs over one model of the zoo."""
    rows = collect([runs])
    name = Path(str(rows[0]["parent"])).name.removeprefix(PREFIX)
    card = json.loads((zoo_dir() / name / "card.json").read_text("utf-8"))
    _, splits = load_task(settings.task_job(card["task"]), card["protocol"])
    found = []
    for row in rows:
        places = scored(len(splits.test), row["test_examples"], row.get("test_skip") or 0)
        labels = splits.test.labels if places is None else splits.test.labels[places]
        with np.load(Path(row["folder"]) / row["correct_file"]) as answers:
            correct = answers[FULL if row["reduction"] == FULL else target(row)[1]].astype(bool)
        told = {"model": name, "arm": label(row), "ratio": row["ratio"], "examples": len(labels), "classes": 2}
        found.append({**told, "test_loss": row["test_loss"], **shares(correct, labels), "command": row["command"]})
    return found


def main(arguments: list[str]) -> None:
    """Writes the table of the runs under the name given."""
    place = results_dir() / "published" / "answers"
    place.mkdir(parents=True, exist_ok=True)
    write_csv(made(results_dir() / arguments[0]), place / "answers.csv")


if __name__ == "__main__":
    main(sys.argv[1:])
