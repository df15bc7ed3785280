"""Writes small sequences in all layouts that the task `arrays` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from s5c.data.base import Dataset
from s5c.data.task.arrays import Task

CLASSES = ("run", "stand", "walk")
LENGTHS = (9, 12, 7)


def sequences(n: int = 18, channels: int = 2, seed: int = 0) -> tuple[list[np.ndarray], list[str]]:
    """Returns sequences of three lengths, with numbers of few digits, and their classes."""
    rng = np.random.default_rng(seed)
    values = [np.round(rng.normal(5, 3, (LENGTHS[i % 3], channels)), 3).astype(np.float32) for i in range(n)]
    return values, [CLASSES[i % 3] for i in range(n)]


def padded(values: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(value) for value in values])
    full = np.full((len(values), lengths.max(), values[0].shape[1]), np.nan, np.float32)
    for row, value in zip(full, values, strict=True):
        row[: len(value)] = value
    return full, lengths


def as_npz(folder: Path) -> None:
    for name, seed in (("train", 0), ("test", 1)):
        values, labels = sequences(seed=seed)
        inputs, lengths = padded(values)
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=np.array(labels), lengths=lengths)


def as_npy(folder: Path) -> None:
    for name, seed in (("train", 0), ("test", 1)):
        values, labels = sequences(seed=seed)
        inputs, lengths = padded(values)
        for role, array in (("X", inputs), ("y", np.array(labels)), ("lengths", lengths)):
            np.save(folder / f"{role}_{name}.npy", array)


def as_one_npz(folder: Path) -> None:
    arrays = {}
    for name, seed in (("train", 0), ("test", 1)):
        values, labels = sequences(seed=seed)
        inputs, lengths = padded(values)
        arrays |= {f"x_{name}": inputs, f"labels_{name}": np.array(labels), f"lengths_{name}": lengths}
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]


def as_csv(folder: Path) -> None:
    rows = ["file,label,split"]
    for name, seed in (("train", 0), ("test", 1)):
        for i, (value, label) in enumerate(zip(*sequences(seed=seed), strict=True)):
            text = "\n".join(",".join(f"{one:.3f}" for one in row) for row in value)
            (folder / f"{name}{i:02}.csv").write_text(f"x,y\n{text}\n")
            rows.append(f"{name}{i:02}.csv,{label},{name}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def as_folders(folder: Path, write: Callable[[Path, np.ndarray], None], suffix: str) -> None:
    for name, seed in (("train", 0), ("test", 1)):
        (folder / name).mkdir()
        rows = ["file,label"]
        for i, (value, label) in enumerate(zip(*sequences(seed=seed), strict=True)):
            write(folder / name / f"{i:02}{suffix}", value)
            rows.append(f"{i:02}{suffix},{label}")
        (folder / name / "labels.csv").write_text("\n".join(rows))


def as_npy_folders(folder: Path) -> None:
    as_folders(folder, lambda path, value: np.save(path, value), ".npy")


def as_parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    def write(path: Path, value: np.ndarray) -> None:
        parquet.write_table(pyarrow.table({"x": value[:, 0], "y": value[:, 1]}), path)

    as_folders(folder, write, ".parquet")


def as_ts(folder: Path) -> None:
    head = "#made here\n@problemName Toy\n@timeStamps false\n@missing false\n@univariate false\n@dimensions 2\n"
    head += f"@equalLength false\n@classLabel true {' '.join(CLASSES)}\n@data\n"
    for name, seed in (("TRAIN", 0), ("TEST", 1)):
        lines = [
            ":".join([*(",".join(f"{one:.3f}" for one in channel) for channel in value.T), label])
            for value, label in zip(*sequences(seed=seed), strict=True)
        ]
        (folder / f"Toy_{name}.ts").write_text(head + "\n".join(lines) + "\n")


def as_arff(folder: Path) -> None:
    steps = "".join(f"  @attribute t{i} numeric\n" for i in range(12))
    head = f"% made here\n@relation 'Toy'\n\n@attribute relationalAtt relational\n{steps}@end relationalAtt\n"
    head += f"@attribute activity {{{','.join(CLASSES)}}}\n\n@data\n"
    for name, seed in (("TRAIN", 0), ("TEST", 1)):
        lines = []
        for value, label in zip(*sequences(seed=seed), strict=True):
            cells = [[f"{one:.3f}" for one in channel] + ["?"] * (12 - len(value)) for channel in value.T]
            lines.append("'" + r"\n".join(",".join(row) for row in cells) + f"',{label}")
        (folder / f"Toy_{name}.arff").write_text(head + "\n".join(lines) + "\n")


LAYOUTS = {
    "npz": as_npz, "npy": as_npy, "one npz": as_one_npz, "csv": as_csv, "npy folders": as_npy_folders,
    "parquet": as_parquet, "ts": as_ts, "arff": as_arff,
}  # fmt: skip


def task(folder: Path, **keys: Any) -> Task:
    return Task(data_dir=str(folder / "raw"), cache_dir=str(folder / "cache"), **keys)


def load(folder: Path, **keys: Any) -> Dataset:
    return task(folder, **keys).load()
