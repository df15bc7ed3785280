"""The contract of every task found in the data folder, splits, and batching."""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import jobs
import layouts
import numpy as np
import pytest

from s5c import lookup
from s5c.config import task_job
from s5c.data import task as tasks
from s5c.data.base import Dataset, Split, assign_splits, names, task_class
from s5c.data.batching import Batch, eval_batches, steps_per_epoch, train_batches
from s5c.data.origin import Located
from s5c.data.ragged import Ragged
from s5c.errors import UserError
from s5c.keys import TaskKeys

# ---- every task, on tiny files of the published layout or a few generated examples


def yaml(name: str) -> dict[str, Any]:
    return jobs.compose("data", f"task={name}")["task"]


@cache
def options(name: str, folder: Path) -> dict[str, Any]:
    return {**yaml(name), **layouts.tiny(name, folder)}


@cache
def prepared(name: str) -> dict[str, Any]:
    """Returns the task's keys after its raw data has been put into a folder of its own."""
    return options(name, Path(mkdtemp(dir=ROOT[0])))


@cache
def loaded(name: str) -> Dataset:
    try:
        return task_job(prepared(name)).task.load()
    except UserError as missing:
        if name in OWN:
            raise
        pytest.skip(f"{name} needs data that is not here: {missing}")


OWN = {path.stem for path in Path(inspect.getfile(tasks)).parent.glob("[!_]*.py")}
"""Tasks of s5c itself, whose layouts are known here."""

ROOT: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> None:
    ROOT[:] = [tmp_path_factory.mktemp("data")]


def read(split: Split) -> np.ndarray:
    return split.read(np.arange(len(split)))


def test_there_is_one_yaml_per_task() -> None:
    assert list(lookup.presets("task")) == names()
    assert "digits" in OWN and set(layouts.FILES) <= OWN <= set(names())
    made = {name for name in OWN if hasattr(task_class(name), "few") or not issubclass(task_class(name), Located)}
    assert set(layouts.FILES) | made == OWN, "every task of s5c is tried here, on files or as it is made"


@pytest.mark.parametrize("name", names())
def test_the_yaml_says_what_it_is_and_fits_the_task(name: str) -> None:
    first, second, *_ = lookup.yaml("task", name).read_text("utf-8").splitlines()
    assert first.startswith("# ")
    assert second.startswith("#")
    assert f"task={name}" in second
    task = task_class(name)
    assert dataclasses.is_dataclass(task)
    assert task.__dataclass_params__.frozen
    fields = {f.name for schema in (TaskKeys, task) for f in dataclasses.fields(schema)}
    assert set(yaml(name)) == fields
    assert yaml(name)["name"] == name
    assert task_job(yaml(name)).task == task(), "the yaml's values are the defaults of the code"


@pytest.mark.parametrize("name", names())
def test_a_task_loads_the_same_data_every_time(name: str) -> None:
    dataset, again = loaded(name), task_job(prepared(name)).task.load()
    assert again.fingerprint() == dataset.fingerprint()
    for split, other in zip(loaded(name).splits.values(), again.splits.values(), strict=True):
        np.testing.assert_array_equal(read(split), read(other))
        np.testing.assert_array_equal(split.labels, other.labels)


@pytest.mark.parametrize("name", names())
def test_a_task_describes_its_data(name: str) -> None:
    dataset = loaded(name)
    assert dataset.name == name
    assert dataset.source
    for split in dataset.splits.values():
        inputs, n = read(split), len(split)
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
    batch = next(train_batches(dataset.train, 3, seed=0, epoch=0))
    assert batch.inputs.dtype == (np.int32 if dataset.tokens else np.float32)
    assert len(batch.inputs) == (6 if dataset.pairs else 3)


@pytest.mark.parametrize("name", names())
def test_where_the_data_lies_does_not_tell_trainings_apart(name: str, tmp_path: Path) -> None:
    dataset, there, here = loaded(name), task_job(prepared(name)), task_job(options(name, tmp_path))
    assert there.description == here.description
    assert dataset.fingerprint() == here.task.load().fingerprint()


# ---- digits


def test_digits_is_the_whole_set_each_image_once() -> None:
    dataset = loaded("digits")
    assert (len(dataset.train), len(dataset.test), dataset.length) == (1437, 360, 64)
    inputs = np.concatenate([read(dataset.train), read(dataset.test)]).reshape(1797, 64)
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    with np.load(Path(tasks.__path__[0]) / "digits.npz") as archive:
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
    np.testing.assert_array_equal(read(splits.train)[:, 0, 0], splits.train.labels)  # rows stay together
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


def ragged(lengths: list[int], *, pad: tuple[int, ...] = ()) -> Split:
    """Returns sequences of their own number, plus 1, and that number as label."""
    repeated = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.uint8), lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    inputs = Ragged(repeated, offsets, 12)
    return Split(inputs, np.arange(len(inputs), dtype=np.int32), inputs.lengths, buckets=pad)


def test_sequences_are_padded_on_the_right_to_the_full_length() -> None:
    split = ragged([3, 12, 1])
    (batch,) = eval_batches(split, 3)
    np.testing.assert_array_equal(batch.inputs, [[1] * 3 + [0] * 9, [2] * 12, [3] + [0] * 11])
    np.testing.assert_array_equal(batch.lengths, [3, 12, 1])
    part = split.take(np.array([2, 0])).take(np.array([1]))
    np.testing.assert_array_equal(read(part), [[1] * 3 + [0] * 9])


def test_sequences_are_put_together_to_pairs() -> None:
    texts = ragged([3, 12, 1, 2]).inputs
    assert isinstance(texts, Ragged)
    pairs = texts.take(np.array([[0, 1], [2, 3], [2, 0]]))
    assert len(pairs) == 3
    np.testing.assert_array_equal(pairs.lengths, [[3, 12], [1, 2], [1, 3]])
    np.testing.assert_array_equal(pairs.read(np.array([1])), [[[3] + [0] * 11, [4, 4] + [0] * 10]])
    np.testing.assert_array_equal(pairs.read(np.array([2, 1]), 4)[0], [[3, 0, 0, 0], [1, 1, 1, 0]])


LENGTHS = [1, 2, 3, 3, 4, 5, 6, 6, 6, 7, 9, 12, 12, 2, 3, 1, 8]


def test_buckets_hold_every_sequence_and_lose_no_batch() -> None:
    split = ragged(LENGTHS, pad=(3, 6, 12))
    batches = list(train_batches(split, 3, seed=0, epoch=0))
    assert len(batches) == steps_per_epoch(split, 3) == 5
    drawn = labels_of(batches)
    assert len(set(drawn)) == len(drawn) == 15
    assert {batch.inputs.shape[1] for batch in batches} == {3, 6, 12}
    for batch in batches:
        assert batch.lengths is not None
        np.testing.assert_array_equal((batch.inputs > 0).sum(axis=1), batch.lengths)
        np.testing.assert_array_equal(batch.inputs.max(axis=1), batch.labels + 1)


@pytest.mark.parametrize("start", range(6))
def test_buckets_resume_anywhere(start: int) -> None:
    split = ragged(LENGTHS, pad=(3, 6, 12))
    whole = list(train_batches(split, 3, seed=4, epoch=1))
    rest = list(train_batches(split, 3, seed=4, epoch=1, start=start))
    assert len(rest) == 5 - start
    for ours, expected in zip(rest, whole[start:], strict=True):
        np.testing.assert_array_equal(ours.inputs, expected.inputs)


@pytest.mark.parametrize("batch_size", [1, 4, 17])
def test_evaluation_pads_each_sequence_to_its_own_bucket(batch_size: int) -> None:
    batches = list(eval_batches(ragged(LENGTHS, pad=(3, 6, 12)), batch_size))
    seen = {}
    for batch in batches:
        for label, weight in zip(batch.labels.tolist(), batch.weights, strict=True):
            if weight:
                assert label not in seen
                seen[label] = batch.inputs.shape[1]
    assert seen == {i: 3 if n <= 3 else 6 if n <= 6 else 12 for i, n in enumerate(LENGTHS)}


@pytest.mark.parametrize("batch_size", [0, -1, 24])
def test_a_batch_larger_than_the_data_is_refused_in_words(batch_size: int) -> None:
    with pytest.raises(UserError, match=f"train.batch_size={batch_size}: .* 23 examples.*between 1 and 23"):
        next(train_batches(numbered(23), batch_size, seed=0, epoch=0))
