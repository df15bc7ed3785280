"""Small data sets as other programs leave them, in tests/cases, and the values that are right for each."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s5c.data.base import Dataset, task_class
from s5c.data.source import wav
from s5c.errors import UserError

CASES = Path(__file__).parent / "cases"


def load(task: str, case: str, folder: Path, **keys: Any) -> Dataset:
    """Loads a task from one of the cases."""
    with tarfile.open(CASES / f"{case}.tar.gz") as packed:
        for member in packed:
            if (content := packed.extractfile(member)) is not None:
                path = folder / "raw" / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    return task_class(task)(
        data_dir=str(folder / "raw"), cache_dir=str(folder / "cache"), download=False, **keys
    ).load()


def test_empty_reviews_read_as_bytes_are_named(tmp_path: Path) -> None:
    empty = ("train/neg/3_2.txt", "train/pos/3_8.txt", "test/neg/3_2.txt", "test/pos/3_8.txt")
    with pytest.raises(UserError, match=", ".join(empty)):
        load("imdb", "imdb_empty", tmp_path, level="bytes", width=None)


def test_empty_reviews_read_as_characters_are_their_end(tmp_path: Path) -> None:
    dataset = load("imdb", "imdb_empty", tmp_path, min_freq=1)
    lengths = dataset.train.lengths
    assert lengths is not None and len(dataset.train) == 12
    np.testing.assert_array_equal(np.flatnonzero(lengths == 1), [3, 9])
    np.testing.assert_array_equal(dataset.train.read(np.array([3]))[0, :2], [2, 0])


def test_what_macos_leaves_in_folders_is_passed_over(tmp_path: Path) -> None:
    dataset = load("imdb", "imdb_dsstore", tmp_path, min_freq=1)
    assert (len(dataset.train), len(dataset.test)) == (12, 12)
    np.testing.assert_array_equal(dataset.train.labels, [0] * 6 + [1] * 6)


def test_the_binary_cifar_is_read_where_the_python_one_lies_beside_it(tmp_path: Path) -> None:
    dataset = load("image", "cifar_both", tmp_path)
    assert (sorted(dataset.train.labels), dataset.test.labels.tolist()) == ([0, 1, 2, 3, 4], [5])


def test_a_sound_that_was_written_to_a_pipe_is_read_to_its_end() -> None:
    expected = (8000 * np.sin(np.arange(400) / 5)).astype(np.int16)
    np.testing.assert_array_equal(wav.read(CASES / "wav_streamed.wav", 8000), expected)


@pytest.mark.parametrize("case", ["lo_bom", "lo_lowerhead", "lo_trailblank"])
def test_listops_written_by_spreadsheets_and_scripts(case: str, tmp_path: Path) -> None:
    dataset = load("listops", case, tmp_path)
    assert [split.labels.tolist() for split in dataset.splits.values()] == [[9, 4, 1, 3] * 3] * 3
    np.testing.assert_array_equal(dataset.train.lengths, [5, 6, 5, 6] * 3)


@pytest.mark.parametrize("case", ["aan_header", "aan_trailblank"])
def test_pairs_written_by_spreadsheets_and_scripts(case: str, tmp_path: Path) -> None:
    dataset = load("retrieval", case, tmp_path)
    assert [split.labels.tolist() for split in dataset.splits.values()] == [[1, 0] * 4] * 3
    assert dataset.vocabulary is not None and dataset.train.lengths is not None
    first = dataset.train.read(np.zeros(1, np.int64))[0]
    texts = [
        "".join(dataset.vocabulary[i] for i in row[: n - 1])
        for row, n in zip(first, dataset.train.lengths[0], strict=True)
    ]
    assert texts == ["We parse text.", "Parsing is fun."]


def test_mnist_under_the_names_inside_its_packed_files(tmp_path: Path) -> None:
    dataset = load("smnist", "idx_dot", tmp_path)
    assert dataset.validation is not None
    train = np.concatenate([dataset.train.labels, dataset.validation.labels])
    np.testing.assert_array_equal(np.sort(train), np.repeat(np.arange(10), 2))
    np.testing.assert_array_equal(dataset.test.labels, np.arange(10))
