"""What sequences are padded to: which lengths are chosen, which refused, and who else has to know them."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import jobs
import layouts
import numpy as np
import pytest
from networks import network, weights_of

from s5c.data import padding
from s5c.data.base import Dataset, Split, Splits, names, task_class
from s5c.data.batching import eval_batches, padding_saved, train_batches
from s5c.data.ragged import Ragged
from s5c.errors import UserError
from s5c.evaluation import cost
from s5c.evaluation.metrics import predict
from s5c.keys import EvaluationKeys
from s5c.locations import data_dir
from s5c.model.classifier import InputSpec
from s5c.pipeline import latency
from s5c.pipeline.trained import TrainedModel, checksum, described, identity, load_task
from s5c.ssm.backend import blocked
from s5c.train import resolve

TASKS = [name for name in names() if "pad" in {field.name for field in dataclasses.fields(task_class(name))}]
"""Tasks whose sequences differ in length."""


def load(name: str, folder: Path, **keys: Any) -> Dataset:
    """Loads a task from tiny files."""
    return task_class(name)(**{**layouts.tiny(name, folder), **keys}).load()


def ragged(lengths: list[int], max_length: int) -> Split:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    inputs = Ragged(np.ones(offsets[-1], np.uint8), offsets, max_length)
    return Split(inputs, np.arange(len(inputs), dtype=np.int32), inputs.lengths)


def steps(lengths: tuple[int, ...], of: np.ndarray) -> int:
    """Returns how many steps sequences of the lengths `of` are padded to."""
    return sum(min(end for end in lengths if end >= n) for n in of.tolist())


# ---- the choice


@pytest.mark.parametrize("seed", range(20))
def test_no_other_lengths_pad_fewer_steps(seed: int) -> None:
    """Against every choice there is."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.choice(40, 9, replace=False) + 1)
    counts = rng.integers(0, 6, 9) * rng.integers(0, 2, 9)
    of = np.repeat(ends, counts)
    for k in range(1, 10):
        places = padding.fewest(ends, counts, k)
        chosen = tuple(int(ends[i]) for i in places)
        assert len(set(chosen)) == k and sorted(chosen) == list(chosen) and chosen[-1] == ends[-1]
        every = (steps((*some, int(ends[-1])), of) for some in itertools.combinations(ends[:-1].tolist(), k - 1))
        assert steps(chosen, of) == min(every)


def test_chosen_lengths_are_whole_blocks_and_hold_the_longest_of_all_splits() -> None:
    rng = np.random.default_rng(0)
    train = np.minimum(rng.lognormal(7, 0.6, 4000).astype(int) + 1, 3500)
    for longest, last in ((3501, 3584), (4000, 4000)):  # rounded up, but not beyond max_length
        chosen = padding.chosen_lengths(5, 4000, train, longest)
        assert len(chosen) == 5 and chosen[-1] == last
        assert all(n % padding.multiple_of(4000) == 0 for n in chosen[:-1])
    spared = [steps(padding.chosen_lengths(k, 4000, train, 4000), train) for k in (1, 2, 4, 8)]
    assert spared[0] == 4000 * len(train) and spared == sorted(spared, reverse=True)
    exact = padding.fewest(*np.unique(np.append(train, 4000), return_counts=True), 8)
    assert spared[3] <= 1.01 * steps(tuple(np.unique(np.append(train, 4000))[exact].tolist()), train)


def test_blocks_are_those_of_the_operator_or_a_part_of_short_sequences() -> None:
    assert padding.BLOCK % blocked.BLOCK == 0
    assert [padding.multiple_of(n) for n in (16_000, 8000, 4096, 2048, 2047, 1024, 100, 31, 15, 1)] == [
        *(128, 128, 128, 128, 64, 64, 4, 1, 1, 1)
    ]


def test_a_length_that_only_the_test_split_needs_is_there() -> None:
    splits = {"train": ragged([3, 3, 5, 9], 64), "test": ragged([50], 64)}
    found = padding.padded(splits, 2, 64)
    assert found["train"].buckets == found["test"].buckets == (12, 52)
    assert found["train"].read(np.zeros(1, int)).shape == (1, 52), "no sequence needs max_length"
    assert padding.padded(splits, "bucket", 64)["train"].buckets == (16, 32, 64)
    assert padding.padded(splits, "full", 64) == splits
    np.testing.assert_array_equal(found["train"].padded_lengths(), [12, 12, 12, 12])
    np.testing.assert_array_equal(splits["train"].padded_lengths(), [64] * 4)


@pytest.mark.parametrize(
    ("pad", "message"),
    [
        ("buckets", r"Unknown value for task\.pad 'buckets'\. Did you mean 'bucket'(.|\n)*a number of lengths such as"),
        (1.5, r"task\.pad=1\.5: give full, bucket"),
        (None, r"task\.pad=None: give full, bucket"),
        (True, r"task\.pad=True: give full, bucket"),
        (0, r"task\.pad=0: .* at least 1"),
        (-3, r"task\.pad=-3: .* at least 1"),
        ([], r"task\.pad=\[\]: give full, bucket"),
        ([0, 64], r"task\.pad=\[0, 64\]: .* at least 1"),
        ([16, "64"], r"task\.pad=\[16, '64'\]: give full, bucket"),
        ([32, 16, 64], r"must increase, as in task\.pad=\[16,32,64\]"),
        ([16, 16, 64], r"must increase, as in task\.pad=\[16,64\]"),
        ([16, 65], r"cut to task\.max_length=64, so none needs 65"),
        ([16, 49], r"the longest sequence has 50\. Add a length of at least that, up to task\.max_length=64"),
        (5, r"the training sequences have 4 different lengths, rounded up to multiples of 4\. Ask for at most 4"),
    ],
)
def test_wrong_values_are_refused_in_words(pad: Any, message: str) -> None:
    splits = {"train": ragged([3, 3, 5, 9], 64), "test": ragged([50], 64)}
    with pytest.raises(UserError, match=message):
        padding.check(pad, 64)
        padding.padded(splits, pad, 64)


# ---- tasks


@pytest.mark.parametrize("name", TASKS)
def test_every_task_of_different_lengths_takes_them(name: str, tmp_path: Path) -> None:
    full = load(name, tmp_path)
    stored = full.train.stored_lengths()
    longest = max(int(split.stored_lengths().max()) for split in full.splits.values())
    for pad in ([longest], 1, "bucket"):
        dataset = load(name, tmp_path, pad=pad)
        assert dataset.fingerprint() != full.fingerprint() and dataset.source.startswith(f"{full.source}, padded ")
        assert {split.buckets for split in dataset.splits.values()} == {dataset.train.buckets}
        for split, as_published in zip(dataset.splits.values(), full.splits.values(), strict=True):
            ours, expected = (s.read(np.arange(len(s))) for s in (split, as_published))
            axis = 2 if dataset.pairs else 1
            shared = ours.shape[axis]
            assert shared == dataset.length <= full.length
            np.testing.assert_array_equal(ours, np.take(expected, np.arange(shared), axis))
    with pytest.raises(UserError, match=r"task\.pad=\[1\]: the longest sequence has"):
        load(name, tmp_path, pad=[1])
    with pytest.raises(UserError, match=r"task\.pad 'half'"):
        load(name, tmp_path, pad="half")
    assert len(stored) == len(full.train)


def test_a_source_says_what_it_is_padded_to(tmp_path: Path) -> None:
    plain = load("listops", tmp_path, max_length=100).source
    assert load("listops", tmp_path, max_length=100, pad="bucket").source == f"{plain}, padded by bucket"
    assert load("listops", tmp_path, max_length=100, pad=[40, 60]).source == f"{plain}, padded to 40 or 60"
    three = load("listops", tmp_path, max_length=100, pad=3)
    first, second, last = three.train.buckets
    assert three.source == f"{plain}, padded to {first}, {second} or {last}"


# ---- trainings that are stored

FINGERPRINTS = {
    "imdb": "b56036a6f538c22e",
    "imdb_small": "093d1ff4415bab63",
    "listops": "2160b195fa4fe257",
    "listops_small": "2ea748f613c7d1c5",
    "retrieval": "d7d14f4b03368375",
    "same_movie": "24f9af7553afee73",
}
"""Of tiny files padded by `bucket`, before there was anything else than that."""


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_training_padded_by_bucket_is_still_found(name: str, tmp_path: Path) -> None:
    assert load(name, tmp_path, pad="bucket").fingerprint() == FINGERPRINTS[name]


BUCKETS_OF_IMDB = ("+experiment=imdb_s5", "train.epochs=6", "task.pad=bucket")


def test_so_is_its_configuration() -> None:
    assert checksum(described(resolve(jobs.compose("train", *BUCKETS_OF_IMDB))[0])) == "b99da61f4d"


@pytest.mark.skipif(not (data_dir() / "aclImdb").is_dir(), reason="needs the official aclImdb in the data directory")
def test_on_the_official_imdb_it_is_that_one_and_seven_lengths_spare_most_steps() -> None:
    job = resolve(jobs.compose("train", *BUCKETS_OF_IMDB))[0]
    dataset, splits = load_task(job.task, job.protocol)
    assert checksum(identity(job, dataset)) == "d85e6e185e"
    assert splits.train.padded_lengths().mean() == pytest.approx(1845.43, abs=0.01)
    job = resolve(jobs.compose("train", "+experiment=imdb_s5", "task.pad=7"))[0]
    seven = load_task(job.task, job.protocol)[1].train
    assert seven.buckets == (768, 1024, 1408, 1792, 2304, 3072, 4096)
    assert seven.padded_lengths().mean() == pytest.approx(1519.2, abs=0.1)


def test_padding_is_new_in_fsdd_and_tells_no_older_training_apart() -> None:
    plain, padded = (
        resolve(jobs.compose("train", "+experiment=fsdd_s5", f"task.pad={pad}"))[0].task.description
        for pad in ("full", 4)
    )
    assert "pad" not in plain and padded == {**plain, "pad": 4}


# ---- batches


def test_as_many_steps_are_saved_as_is_said() -> None:
    rng = np.random.default_rng(1)
    splits = {"train": ragged(rng.integers(1, 65, 103).tolist(), 64)}
    split = padding.padded(splits, 4, 64)["train"]
    batches = list(train_batches(split, 10, seed=3, epoch=0))
    mean = np.mean([batch.inputs.shape[1] for batch in batches])
    assert padding_saved(split, 10, seed=3) == (
        f"Padding to {', '.join(map(str, split.buckets))}: {mean:,.0f} on average instead of 64, "
        f"{mean / 64:.1%} of an epoch's steps."
    )
    assert mean < 64 and padding_saved(splits["train"], 10, seed=3) == ""


def test_the_examples_that_an_epoch_leaves_out_are_not_chosen_by_length() -> None:
    """They are those left out without buckets; once it was the longest ones, whatever was left of the last bucket."""
    lengths = [1] * 40 + [9] * 7
    plain = ragged(lengths, 10)
    split = padding.padded({"train": plain}, [2, 10], 10)["train"]
    for epoch in range(5):
        ours, expected = (
            np.sort(np.concatenate([batch.labels for batch in train_batches(s, 10, seed=0, epoch=epoch)]))
            for s in (split, plain)
        )
        np.testing.assert_array_equal(ours, expected)


# ---- what looks at the data


def test_predictions_come_in_the_order_of_the_split(rng: np.random.Generator) -> None:
    lengths = [9, 1, 2, 9, 1, 8, 2]
    split = padding.padded({"train": ragged(lengths, 10)}, [2, 10], 10)["train"]
    assert next(eval_batches(split, 4)).labels.tolist() == [1, 2, 4, 6], "bucket by bucket"
    model = network(InputSpec(3, 7, tokens=True), n_layers=1)
    found = predict(model, weights_of(model, rng), eval_batches(split, 4))
    np.testing.assert_array_equal(found.labels, split.labels)
    for length in (1, 2, 8, 9):  # sequences of one length are equal here, others are not
        own = found.log_probs[np.array(lengths) == length]
        np.testing.assert_allclose(own, np.broadcast_to(own[0], own.shape), atol=1e-6)
    assert len(np.unique(found.log_probs.round(4), axis=0)) == 4


def test_latency_is_measured_at_the_length_that_operations_are_counted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def measure(networks: Any, batch: Any, **_: Any) -> dict[str, cost.Measured]:
        shapes.append(batch.inputs.shape)
        return {name: cost.Measured(1.0, 1, "sequential", [1.0]) for name in networks}

    monkeypatch.setattr(cost, "measure", measure)
    split = padding.padded({"train": ragged([1, 1, 1, 9], 10)}, [2, 10], 10)["train"]
    dataset = Dataset("reviews", "nowhere", split, split, features=3, classes=4, tokens=True)
    model, splits = network(InputSpec(3, 4, tokens=True), n_layers=1), Splits(split, split, split, "test")
    trained = TrainedModel(model, {}, {}, Path(), "", dataset, splits)
    latency.measure([{"device": "cpu"}], trained, [], EvaluationKeys(batch_size=2))
    assert shapes == [(2, 10)]


@pytest.mark.slow
def test_a_training_and_its_reduction_on_data_know_the_lengths(tmp_path: Path) -> None:
    outcome = jobs.run(
        "train",
        *("task=listops_small", "task.examples=[300,40,40]", f"task.cache_dir={tmp_path}", "task.pad=2"),
        *("model.bidirectional=true", "train.batch_size=20", "reduction=calibrated"),
        *("reduction.calibration.sequences=20", "evaluation.latency=true"),
        folder=tmp_path,
    )
    assert outcome.code == 0, outcome.err
    rows = jobs.rows(jobs.only(tmp_path, "results/*/*/rows.jsonl"))
    found = re.search(r", padded to (\d+) or (\d+)$", rows[0]["source"])
    assert found is not None and len(rows) == 2 and rows[1]["latency_ms"] > 0
    assert f"Padding to {found[1]}, {found[2]}: " in outcome.err
