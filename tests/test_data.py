"""The contract of every task found in the data folder, splits, and batching."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from s5c import data
from s5c.config import TaskKeys, task_job
from s5c.data.base import Dataset, Split, assign_splits, names, task_class
from s5c.data.batching import Batch, eval_batches, steps_per_epoch, train_batches
from s5c.errors import UserError

TASKS = Path(__file__).resolve().parents[1] / "conf" / "task"


# ---- every task


def yaml(name: str) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(TASKS / f"{name}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@cache
def loaded(name: str) -> Dataset:
    return task_job(yaml(name)).task.load()


def splits_of(dataset: Dataset) -> dict[str, Split]:
    found = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {name: split for name, split in found.items() if split is not None}


def test_there_is_one_yaml_per_task() -> None:
    assert "digits" in names()
    assert sorted(path.stem for path in TASKS.glob("*.yaml")) == names()


@pytest.mark.parametrize("name", names())
def test_the_yaml_says_what_it_is_and_fits_the_task(name: str) -> None:
    first, second, *_ = (TASKS / f"{name}.yaml").read_text("utf-8").splitlines()
    assert first.startswith("# ")
    assert second.startswith("#")
    assert f"task={name}" in second
    task = task_class(name)
    assert dataclasses.is_dataclass(task)
    assert task.__dataclass_params__.frozen
    fields = {f.name for schema in (TaskKeys, task) for f in dataclasses.fields(schema)}
    assert set(yaml(name)) == fields
    assert yaml(name)["name"] == name


@pytest.mark.parametrize("name", names())
def test_a_task_loads_the_same_data_every_time(name: str) -> None:
    again = task_job(yaml(name)).task.load()
    assert again.fingerprint() == loaded(name).fingerprint()
    for split, other in zip(splits_of(loaded(name)).values(), splits_of(again).values(), strict=True):
        np.testing.assert_array_equal(split.inputs, other.inputs)
        np.testing.assert_array_equal(split.labels, other.labels)


@pytest.mark.parametrize("name", names())
def test_a_task_describes_its_data(name: str) -> None:
    dataset = loaded(name)
    assert dataset.name == name
    assert dataset.source
    for split in splits_of(dataset).values():
        inputs, n = split.inputs, len(split)
        assert len(inputs) == n > 0
        assert split.labels.dtype == np.int32
        assert split.labels.shape == (n,)
        assert set(np.unique(split.labels)) <= set(range(dataset.classes))
        leading = (n, 2) if dataset.pairs else (n,)
        if dataset.tokens:
            assert inputs.shape == (*leading, dataset.length)
            assert np.issubdtype(inputs.dtype, np.integer)
            assert inputs.min() >= 0
            assert inputs.max() < dataset.features
            assert dataset.vocabulary is not None
            assert len(dataset.vocabulary) <= dataset.features
        else:
            assert inputs.shape == (*leading, dataset.length, dataset.features)
            assert inputs.dtype == np.float32
            assert np.isfinite(inputs).all()
        if split.lengths is not None:
            assert split.lengths.shape == leading
            assert split.lengths.min() >= 1
            assert split.lengths.max() <= dataset.length
    assert set(np.unique(dataset.train.labels)) == set(range(dataset.classes))


# ---- digits


def test_digits_is_the_whole_set_each_image_once() -> None:
    dataset = loaded("digits")
    assert (len(dataset.train), len(dataset.test), dataset.length) == (1437, 360, 64)
    inputs = np.concatenate([dataset.train.inputs, dataset.test.inputs]).reshape(1797, 64)
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    with np.load(Path(data.__path__[0]) / "digits.npz") as archive:
        images, digits = archive["images"].reshape(1797, 64), archive["labels"]

    def ordered(rows: np.ndarray) -> np.ndarray:
        return rows[np.lexsort(rows.T)]

    ours = ordered(np.column_stack([inputs * 16, labels]))
    np.testing.assert_array_equal(ours, ordered(np.column_stack([images, digits])))
    np.testing.assert_array_equal(np.bincount(labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


def test_the_split_of_digits_follows_its_seed() -> None:
    other = task_class("digits")(split_seed=1).load()
    assert other.fingerprint() != loaded("digits").fingerprint()


# ---- splits


def numbered(n: int, offset: int = 0) -> Split:
    """Returns examples that carry their number as input and label."""
    rows = np.arange(offset, offset + n)
    return Split(rows[:, None, None].astype(np.float32), rows.astype(np.int32))


def numbers(split: Split) -> set[int]:
    return set(split.labels.tolist())


DATASET = Dataset("toy", "counted", numbered(40), numbered(10, 100), features=1, classes=200)


def test_validation_is_carved_from_training() -> None:
    splits = assign_splits(DATASET, protocol="validation", validation_fraction=0.2, seed=3)
    assert splits.selected_on == "validation"
    assert (len(splits.train), len(splits.selection), len(splits.test)) == (32, 8, 10)
    assert numbers(splits.train) | numbers(splits.selection) == set(range(40))
    assert numbers(splits.test) == set(range(100, 110))
    np.testing.assert_array_equal(splits.train.inputs[:, 0, 0], splits.train.labels)  # rows stay together
    again = assign_splits(DATASET, protocol="validation", validation_fraction=0.2, seed=3)
    np.testing.assert_array_equal(splits.selection.labels, again.selection.labels)
    other = assign_splits(DATASET, protocol="validation", validation_fraction=0.2, seed=4)
    assert numbers(splits.selection) != numbers(other.selection)


def test_the_papers_select_on_test_where_no_validation_is_published() -> None:
    splits = assign_splits(DATASET, protocol="paper", validation_fraction=0.2, seed=3)
    assert splits.selected_on == "test"
    assert (splits.train, splits.selection, splits.test) == (DATASET.train, DATASET.test, DATASET.test)


@pytest.mark.parametrize("protocol", ["validation", "paper"])
def test_a_published_validation_split_is_used(protocol: str) -> None:
    published = dataclasses.replace(DATASET, validation=numbered(5, 50))
    splits = assign_splits(published, protocol=protocol, validation_fraction=0.2, seed=3)
    assert (splits.train, splits.selection, splits.selected_on) == (published.train, published.validation, "validation")


@pytest.mark.parametrize(
    ("protocol", "fraction", "message"),
    [
        ("papers", 0.1, "Unknown protocol 'papers'.*'paper'"),
        ("validation", 0.0, "validation_fraction=0.0 leaves 0 of 40"),
        ("validation", 1.0, "leaves 40 of 40"),
        ("validation", 0.01, "leaves 0 of 40"),
    ],
)
def test_impossible_splits_are_refused_in_words(protocol: str, fraction: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign_splits(DATASET, protocol=protocol, validation_fraction=fraction, seed=0)


def test_an_unknown_task_is_an_error_that_names_the_others() -> None:
    with pytest.raises(UserError, match=r"Unknown task 'digit'.*Did you mean 'digits'"):
        task_class("digit")


def test_the_fingerprint_is_that_of_the_data() -> None:
    def changed(split: str, field: str) -> Dataset:
        original = getattr(dataset, split)
        array = getattr(original, field).copy()
        array.flat[-1] += 1
        return dataclasses.replace(dataset, **{split: dataclasses.replace(original, **{field: array})})

    with_lengths = dataclasses.replace(DATASET.train, lengths=np.ones(40, np.int32))
    dataset = dataclasses.replace(DATASET, train=with_lengths, validation=numbered(3))
    variants = [
        dataset,
        dataclasses.replace(dataset, source="counted again"),
        dataclasses.replace(dataset, validation=None),
        *(changed(split, field) for split in ("train", "validation", "test") for field in ("inputs", "labels")),
        changed("train", "lengths"),
    ]
    prints = [variant.fingerprint() for variant in variants]
    assert len(set(prints)) == len(prints)
    same = dataclasses.replace(dataset, test=dataset.test.take(np.arange(10)))
    assert same.fingerprint() == prints[0]


# ---- batches


def labels_of(batches: list[Batch]) -> list[int]:
    return np.concatenate([batch.labels for batch in batches]).tolist()


def test_an_epoch_is_a_permutation_without_the_last_partial_batch() -> None:
    split = numbered(23)
    batches = list(train_batches(split, 5, seed=1, epoch=0))
    assert len(batches) == steps_per_epoch(split, 5) == 4
    drawn = labels_of(batches)
    assert len(set(drawn)) == 20
    assert set(drawn) <= set(range(23))
    assert drawn != sorted(drawn)
    for batch in batches:
        assert batch.inputs.shape == (5, 1, 1)
        np.testing.assert_array_equal(batch.inputs[:, 0, 0], batch.labels)
        np.testing.assert_array_equal(batch.weights, np.ones(5))
        assert batch.lengths is None


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [labels_of(list(train_batches(numbered(20), 5, seed=s, epoch=e))) for s in (1, 2) for e in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert labels_of(list(train_batches(numbered(20), 5, seed=1, epoch=0))) == orders[0]


@pytest.mark.parametrize("start", range(5))
def test_an_epoch_can_be_resumed_anywhere(start: int) -> None:
    whole = list(train_batches(numbered(23), 5, seed=1, epoch=2))
    rest = list(train_batches(numbered(23), 5, seed=1, epoch=2, start=start))
    assert len(rest) == 4 - start
    for ours, expected in zip(rest, whole[start:], strict=True):
        np.testing.assert_array_equal(ours.inputs, expected.inputs)
        np.testing.assert_array_equal(ours.labels, expected.labels)


@pytest.mark.parametrize(("n", "batch_size"), [(23, 5), (20, 5), (3, 8)])
def test_evaluation_counts_every_example_once(n: int, batch_size: int) -> None:
    batches = list(eval_batches(numbered(n), batch_size))
    assert all(len(batch.labels) == len(batch.weights) == batch_size for batch in batches)
    weights = np.concatenate([batch.weights for batch in batches])
    assert weights.sum() == n
    assert np.array(labels_of(batches))[weights == 1].tolist() == list(range(n))


def test_pairs_stack_the_first_documents_over_the_second() -> None:
    ids = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
    lengths = np.array([[1, 2], [3, 1], [2, 2], [3, 3]], np.int32)
    split = Split(ids, np.arange(4, dtype=np.int32), lengths)
    first, last = eval_batches(split, 3)
    np.testing.assert_array_equal(first.inputs, np.concatenate([ids[:3, 0], ids[:3, 1]]))
    np.testing.assert_array_equal(first.lengths, [1, 3, 2, 2, 1, 2])
    assert first.inputs.dtype == np.int32
    assert last.inputs.shape == (6, 3)
    np.testing.assert_array_equal(last.inputs[[0, 3]], ids[3])
    np.testing.assert_array_equal(last.weights, [1, 0, 0])
    (batch,) = train_batches(split, 4, seed=0, epoch=0)
    np.testing.assert_array_equal(batch.inputs[:4], ids[batch.labels, 0])
    np.testing.assert_array_equal(batch.inputs[4:], ids[batch.labels, 1])


@pytest.mark.parametrize("batch_size", [0, -1, 24])
def test_a_batch_larger_than_the_data_is_refused_in_words(batch_size: int) -> None:
    with pytest.raises(UserError, match=f"train.batch_size={batch_size}: .* 23 examples.*between 1 and 23"):
        next(train_batches(numbered(23), batch_size, seed=0, epoch=0))
