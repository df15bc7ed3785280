"""The task `arrays`: all layouts give the same sequences, splits are reproducible, and wrong files are named."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import own_data
import pytest
from jobs import run
from own_data import LAYOUTS, as_csv, as_npz, as_ts, load, padded, sequences

from s5c import config
from s5c.data.batching import eval_batches
from s5c.data.ragged import Ragged
from s5c.data.schema import Schema
from s5c.data.source import sequences as read_sequences
from s5c.errors import UserError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


# ---- what is read


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_sequences(layout: str, raw: Path) -> None:
    LAYOUTS[layout](raw)
    dataset = load(raw.parent)
    assert (dataset.features, dataset.classes, dataset.length, dataset.metric) == (2, 3, 12, "accuracy")
    assert dataset.schema is not None and dataset.validation is not None
    assert dataset.schema.classes == own_data.CLASSES
    values, labels = sequences(seed=1)
    found = dataset.test.read(np.arange(18))
    for i, value in enumerate(values):
        np.testing.assert_array_equal(found[i, : len(value)], value)
    assert [own_data.CLASSES[label] for label in dataset.test.labels] == labels
    assert dataset.test.lengths is not None and dataset.test.lengths.tolist() == [len(value) for value in values]
    assert (len(dataset.train), len(dataset.validation)) == (16, 2)


def test_statistics_are_those_of_the_training_split_alone(raw: Path) -> None:
    as_npz(raw)
    dataset = load(raw.parent, validation_fraction=1 / 3)
    values, _ = sequences(seed=0)
    assert dataset.train.rows is not None and dataset.scale is not None and dataset.validation is not None
    train = np.concatenate([values[row] for row in dataset.train.rows]).astype(float)
    np.testing.assert_allclose(dataset.scale.shift, train.mean(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.scale.size, train.std(0), rtol=1e-12)
    assert not np.allclose(dataset.scale.shift, np.concatenate(values).mean(0), rtol=1e-6)
    narrow = load(raw.parent, validation_fraction=1 / 3, scale="minmax").scale
    assert narrow is not None
    np.testing.assert_allclose([narrow.shift, narrow.size], [train.min(0), np.ptp(train, axis=0)], rtol=1e-12)
    assert load(raw.parent, scale="none").scale is None
    # What is padded is what a network sees as 0.
    batch = next(eval_batches(dataset.validation, 6))
    assert batch.lengths is not None
    ends = (batch.inputs[i, end:] for i, end in enumerate(batch.lengths))
    assert all(np.allclose(end, np.float32(dataset.scale.shift)) for end in ends)
    assert set(np.unique(dataset.validation.labels)) == {0, 1, 2}, "each class has its share"


def test_missing_splits_are_carved_reproducibly_and_apart(raw: Path) -> None:
    values, labels = sequences(60)
    inputs, lengths = padded(values)
    np.savez(raw / "data.npz", inputs=inputs, labels=np.array(labels), lengths=lengths)
    first, again, other = load(raw.parent), load(raw.parent), load(raw.parent, split_seed=1)
    rows = [split.rows for split in first.splits.values()]
    assert [len(row) for row in rows if row is not None] == [43, 5, 12]
    assert sorted(np.concatenate([row for row in rows if row is not None])) == list(range(60))
    np.testing.assert_array_equal(first.test.rows, again.test.rows)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert np.bincount(first.test.labels).tolist() == [4, 4, 4]


def test_whole_numbers_are_classes_by_value_or_targets_if_asked(raw: Path) -> None:
    values, _ = sequences(22)
    inputs, lengths = padded(values)
    y = np.arange(22) % 11
    np.savez(raw / "data.npz", x=inputs, y=y, lengths=lengths)
    dataset = load(raw.parent)
    assert dataset.schema is not None and dataset.schema.classes == tuple(map(str, range(11)))  # 10 after 9
    fitted = load(raw.parent, answers="values")
    assert fitted.targets is not None and fitted.metric == "rmse" and fitted.train.labels.shape[1:] == (1,)
    np.testing.assert_allclose(fitted.targets.shift, fitted.train.labels.mean(), rtol=1e-6)


def test_targets_of_every_step_are_cut_and_padded_like_their_inputs(raw: Path) -> None:
    for name, seed in (("train", 0), ("test", 1)):
        (raw / name).mkdir()
        for i, value in enumerate(sequences(seed=seed)[0]):
            text = "\n".join(f"{a:.3f},{b:.3f},{a + b:.3f}" for a, b in value)
            (raw / name / f"{i:02}.csv").write_text(f"x,y,target\n{text}\n")
    dataset = load(raw.parent, max_length=10, pad=[8, 10])
    assert dataset.targets is not None and dataset.targets.per_step and dataset.schema is not None
    assert (dataset.schema.answers, dataset.schema.channel_names) == ("values per step", ("x", "y"))
    batches = list(eval_batches(dataset.test, 6))
    assert {batch.inputs.shape[1] for batch in batches} == {8, 10}
    for batch in batches:
        assert batch.lengths is not None
        for row, wanted, end in zip(batch.inputs, batch.labels, batch.lengths, strict=True):
            np.testing.assert_allclose(wanted[:end, 0], row[:end].sum(1), atol=2e-3)
            assert not wanted[end:].any()


def test_the_schema_survives_json_and_refuses_other_data(raw: Path) -> None:
    as_ts(raw)
    schema = load(raw.parent).schema
    assert schema is not None and Schema.of(config.jsonable(schema.to_dict())) == schema
    assert "3 classes: run, stand, walk" in schema.lines()
    schema.check(np.zeros((4, 30, 2)), np.array([30, 1, 2, 3]))
    late = np.zeros((1, 5, 2))
    late[0, 3] = np.nan
    schema.check(late, np.array([3]))  # padding may be anything
    wrong = {
        "3 channels": (np.zeros((4, 30, 3)), None), "text": (np.full((1, 2, 2), "a"), None),
        "empty": (np.zeros((0, 3, 2)), None), "lengths": (np.zeros((2, 3, 2)), np.array([1, 4])), "NaN": (late, None),
    }  # fmt: skip
    for inputs, lengths in wrong.values():
        with pytest.raises(UserError, match=r"inputs: (shape|expected 2 lengths|example 0, step 4)"):
            schema.check(inputs, lengths)


def test_prepared_sequences_are_read_from_disk(raw: Path) -> None:
    as_npz(raw)
    inputs = load(raw.parent).train.inputs
    assert isinstance(inputs, Ragged) and isinstance(inputs.flat, np.memmap)


# ---- what is refused


def change(path: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(raw: Path) -> None:
        text = (raw / path).read_text()
        assert old in text
        (raw / path).write_text(text.replace(old, new, 1))

    return apply


def rewritten(name: str = "train.npz", **arrays: object) -> Callable[[Path], None]:
    """Replaces arrays of an npz; None drops one."""

    def apply(raw: Path) -> None:
        with np.load(raw / name) as stored:
            kept = {key: array for key, array in {**stored, **arrays}.items() if array is not None}
        np.savez(raw / name, **kept)

    return apply


def cut(path: str) -> Callable[[Path], None]:
    return lambda raw: (raw / path).write_bytes((raw / path).read_bytes()[:300]) and None


def gone(path: str) -> Callable[[Path], None]:
    return lambda raw: (raw / path).unlink()


class Bomb:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("ran", "w")


def pickled(raw: Path) -> None:
    (raw / "train.npz").unlink()
    np.save(raw / "X_train.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.save(raw / "y_train.npy", np.zeros(1))
    (raw / "test.npz").unlink()


def oversized(raw: Path) -> None:
    """Claims more numbers than there are."""
    (raw / "train.npz").unlink()
    (raw / "test.npz").unlink()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6, 3)})
    (raw / "x.npy").write_bytes(header.getvalue() + b"\0" * 64)
    np.save(raw / "y.npy", np.zeros(3, int))


full, lengths = padded(sequences()[0])
clean = np.nan_to_num(full)
holed = clean.copy()
holed[4, 2, 1] = np.nan

WRONG: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "a cut npz": (as_npz, cut("train.npz"), r"train\.npz: expected an npz archive; it is cut off or damaged"),
    "pickled objects": (as_npz, pickled, r"X_train\.npy: it holds Python objects, which are not loaded"),
    "more than there is": (as_npz, oversized, r"x\.npy: expected a NumPy array; it is cut off or damaged"),
    "no inputs": (as_npz, rewritten(inputs=None), r"train\.npz holds .*'labels'.*expected `inputs`"),
    "no answers": (as_npz, rewritten(labels=None), r"train\.npz: expected one of `labels`, .* got none"),
    "two answers": (as_npz, rewritten(y=np.zeros(18)), r"got `labels` and `y`"),
    "NaN": (as_npz, rewritten(inputs=holed), r"example 4: step 3, channel 2 is NaN, a missing value"),
    "too large": (as_npz, rewritten(inputs=clean * np.float64(1e300)), r"example 0: step 1, .*e\+300; expected finite"),
    "complex numbers": (as_npz, rewritten(inputs=clean * 1j), r"complex\d+; expected real numbers of shape"),
    "four axes": (as_npz, rewritten(inputs=clean[..., None]), r"shape \(18, 12, 2, 1\)"),
    "too few labels": (as_npz, rewritten(labels=np.arange(5)), r"'labels': shape \(5,\); .* each of 18 examples"),
    "one-hot labels": (as_npz, rewritten(labels=np.eye(18)), r"expected one class an example"),
    "fractional labels": (as_npz, rewritten(labels=np.full(18, 0.5)), r"float64; expected classes as whole numbers"),
    "lengths beyond the end": (as_npz, rewritten(lengths=lengths + 1), r"'lengths': expected 18 whole numbers"),
    "targets beside labels": (
        as_npz, rewritten(labels=None, targets=np.zeros(18)), r"test\.npz.*expected targets, as in .*train\.npz",
    ),
    "other channels": (
        as_npz, rewritten(inputs=np.concatenate([clean, clean], 2)), r"test\.npz, .* example 0: 2 channels; expected 4",
    ),
    "infinite targets": (
        as_npz, rewritten(labels=None, targets=np.full(18, np.inf)), r"'targets'|expected targets",
    ),
    "a word in a csv": (as_csv, change("train03.csv", "\n", "\nx1,2\n"), r"train03\.csv, line 2, column x: 'x1'"),
    "a short line": (as_csv, change("train03.csv", "\n", "\n1\n"), r"train03\.csv, line 2: 1 cells; expected 2"),
    "other columns": (as_csv, change("train05.csv", "x,y", "x,z"), r"train05\.csv: columns x, z; expected those of"),
    "a file that is not there": (as_csv, gone("train02.csv"), r"labels\.csv, line 4: there is no file 'train02\.csv'"),
    "a file without a label": (
        as_csv, change("labels.csv", "train02.csv,walk,train\n", ""), r"labels\.csv: 'train02\.csv' is not listed",
    ),
    "a file with two": (
        as_csv, change("labels.csv", "train02", "train01"), r"line 4: 'train01\.csv' is listed in line 3 already",
    ),
    "an empty label": (as_csv, change("labels.csv", ",walk,", ",,"), r"labels\.csv, line 4: the label is empty"),
    "another split": (as_csv, change("labels.csv", ",test", ",tset"), r"line 20: split 'tset'; expected train, valid"),
    "no columns": (as_csv, change("labels.csv", "file,label", "name,class"), r"line 1: columns name, class, split"),
    "a new class in the test": (
        as_csv, change("labels.csv", "run,test", "fly,test"), r"test00\.csv: no training example is of class 'fly'",
    ),
    "dimensions": (as_ts, change("Toy_TRAIN.ts", ":run", ",run"), r"Toy_TRAIN\.ts, line 10: expected 2 dimensions"),
    "a class not declared": (as_ts, change("Toy_TEST.ts", ":walk", ":Walk"), r"TEST\.ts, line 12: the class is 'Walk'"),
    "a missing value": (as_ts, change("Toy_TRAIN.ts", ",", ",?,"), r"line 10, dimension 1: value 2 is missing \(\?\)"),
    "unequal dimensions": (as_ts, change("Toy_TRAIN.ts", ":", ",1.0:"), r"line 10: dimensions of 9 and 10 steps"),
    "no data": (as_ts, change("Toy_TRAIN.ts", "@data", "#"), r"line 10: expected a line that begins with @"),
    "time stamps": (as_ts, change("Toy_TRAIN.ts", "@timeStamps false", "@timeStamps true"), r"have time stamps"),
    "quotes": (own_data.as_arff, change("Toy_TRAIN.arff", "\n'", "\n"), r"line 21: .* in quotes, a comma"),
    "no test values": (as_ts, lambda raw: cut("Toy_TEST.ts")(raw), r"Toy_TEST\.ts"),
    "binary": (as_ts, lambda raw: (raw / "Toy_TRAIN.ts").write_bytes(b"\0\1\2" * 99) and None, r"expected text, got"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_named_and_nothing_is_kept(case: str, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, spoil, message = WRONG[case]
    monkeypatch.chdir(raw.parent)
    write(raw)
    spoil(raw)
    with pytest.raises(UserError, match=message):
        load(raw.parent)
    left = [path.name for path in (raw.parent / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    assert not left and not (raw.parent / "ran").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_files_are_refused_or_read_and_nothing_else(layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "whole").mkdir()
    LAYOUTS[layout](tmp_path / "whole")
    refused = 0
    for attempt in range(25):
        folder = tmp_path / str(attempt)
        shutil.copytree(tmp_path / "whole", folder / "raw")
        paths = sorted(path for path in (folder / "raw").rglob("*") if path.is_file())
        path = paths[rng.integers(len(paths))]
        content = bytearray(path.read_bytes())
        place, count = int(rng.integers(len(content))), int(rng.integers(1, 40))
        if attempt % 3 == 0:
            del content[place : place + count]
        elif attempt % 3 == 1:
            content[place] ^= 1 << int(rng.integers(8))
        else:
            content[place:place] = rng.bytes(count)
        path.write_bytes(content)
        try:
            load(folder)
        except UserError as error:
            assert str(folder) in str(error), "the message names the file"
            refused += 1
    assert refused >= 5


def test_pickles_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb())).close()
    assert (tmp_path / "ran").exists()


WRONG_KEYS = {
    "no place": ({"data_dir": None}, "say where it lies, task.data_dir="),
    "a metric of targets": ({"metric": "rmse"}, "measures targets, and this data has classes: give accuracy"),
    "no metric": ({"metric": "acuracy"}, "Did you mean 'accuracy'"),
    "no scaling": ({"scale": "standart"}, "Did you mean 'standard'"),
    "words as targets": ({"answers": "values"}, "the label is 'run'; task.answers=values expected a number"),
    "no test": ({"test_fraction": 0.001}, "task.test_fraction=0.001 carves 0 of"),
    "nothing to explain": ({"answers": "values", "metric": "r2", "max_length": 5}, "do not: give task.metric=rmse"),
    "not there": ({"data_dir": "nowhere"}, "there is no folder and no file"),
}


@pytest.mark.parametrize("case", WRONG_KEYS)
def test_wrong_keys_are_refused(case: str, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s5c.pipeline.loaded import load_task

    keys, message = WRONG_KEYS[case]
    monkeypatch.chdir(raw.parent)
    as_npz(raw)
    if case == "no test":
        (raw / "test.npz").unlink()
    if case == "nothing to explain":
        rewritten(labels=np.arange(18) % 2)(raw)
        rewritten("test.npz", labels=np.ones(18, int))(raw)
    given = {"name": "arrays", "data_dir": str(raw), "cache_dir": str(raw.parent / "cache"), **keys}
    with pytest.raises(UserError, match=message):
        load_task(config.task_job(given), "validation")


def test_a_command_on_wrong_files_ends_in_one_message_and_leaves_nothing(raw: Path) -> None:
    as_ts(raw)
    change("Toy_TRAIN.ts", ",", ",x,")(raw)
    given = ("task=arrays", f"task.data_dir={raw}", f"task.cache_dir={raw.parent / 'cache'}")
    done = run("train", *given, folder=raw.parent)
    assert done.code == 1 and "line 10, dimension 1: value 2 is 'x'; expected a number." in done.err
    assert "Traceback" not in done.err and not (raw.parent / "results").exists()


def test_a_set_among_several_is_chosen_by_its_file(raw: Path) -> None:
    as_ts(raw)
    for name in ("TRAIN", "TEST"):
        (raw / f"Other_{name}.ts").write_text((raw / f"Toy_{name}.ts").read_text())
    with pytest.raises(UserError, match=r"several sets, Other, Toy: give one of its files"):
        load(raw.parent)
    one = own_data.Task(data_dir=str(raw / "Toy_TEST.ts"), cache_dir=str(raw.parent / "cache")).load()
    assert (len(one.train), len(one.test)) == (16, 18)


def test_the_names_of_splits() -> None:
    assert [read_sequences.split_named(name) for name in ("TRAIN", "val", " dev", "x")] == [
        "train", "validation", "validation", None,
    ]  # fmt: skip
