"""Titles of figures in words: what a reader of a paper understands without the names of folders."""

from __future__ import annotations

from collections.abc import Sequence

from s5c.report.collect import Study
from s5c.report.row import Row, value

TASKS = {
    "digits": "Handwritten digits, pixel by pixel (64 steps)",
    "fashion": "Fashion-MNIST, pixel by pixel (784 steps)",
    "fsdd": "Spoken digits, raw audio (up to 8,000 steps)",
    "image": "Image, grey CIFAR-10 of the Long Range Arena (1,024 steps)",
    "imdb": "Text, IMDb reviews by character (4,096 steps)",
    "imdb_small": "Ends of IMDb reviews, by pairs of characters (512 steps)",
    "listops": "ListOps of the Long Range Arena (up to 2,048 steps)",
    "listops_small": "Short ListOps (21 to 99 steps)",
    "pathfinder": "Pathfinder of the Long Range Arena (1,024 steps)",
    "pathfinder_small": "Easy Pathfinder (1,024 steps)",
    "pathx": "Path-X of the Long Range Arena (16,384 steps)",
    "psmnist": "MNIST in bit-reversed order (784 steps)",
    "retrieval": "Retrieval, pairs of papers, of the Long Range Arena (4,000 steps)",
    "same_movie": "Pairs of film reviews (4,000 steps)",
    "scifar": "Colour CIFAR-10, pixel by pixel (1,024 steps)",
    "smnist": "MNIST, pixel by pixel (784 steps)",
    "smnist_small": "MNIST pooled to 14 × 14, pixel by pixel (196 steps)",
    "speech35": "Speech Commands, raw audio (16,000 steps)",
}
"""Tasks that come with s5c; others are called by their name."""
OWN = "arrays"
"""The task of everybody's own data, which is called by its source."""
MODELS = {"s5": "S5", "s4d": "S4D", "dss": "DSS"}


def title(study: Study) -> str:
    """Returns the title of a study's figures: task, network and, where it has any, what sets it apart from others.

    Args:
        study: of which `title` is the name in tables, made of names of tasks, families and experiments.
    """
    first = study.rows[0]
    task, model = first.get("task"), first.get("model")
    parts = [_source(first) if task == OWN else TASKS.get(str(task), str(task))] if task else []
    if model:
        parts.append(", ".join([MODELS.get(str(model), str(model)), *_size(first.get("orders_full"))]))
    name = ", ".join(str(found) for key in ("task", "model", "experiment") if (found := value(first, key)))
    return ": ".join(parts) + study.title.removeprefix(name)


def _source(row: Row) -> str:
    """Returns what a set of one's own is called: its source without the checksum."""
    name = str(row.get("source", OWN)).partition(" (")[0]
    return name[:1].upper() + name[1:]


def _size(orders: Sequence[float] | None) -> list[str]:
    if not orders:
        return []
    low, high = round(min(orders)), round(max(orders))
    states = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return [f"{len(orders)} layer{'s' * (len(orders) > 1)} of {states} states"]
