"""Checkpoints give back exactly what was saved, or say what is wrong with them."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s5c.errors import UserError
from s5c.training import integrity
from s5c.training.checkpoint import Checkpoint, CheckpointStore, load, save_single

# TensorStore reports the remaining arrays of a damaged item to an event loop that Orbax has closed by then.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make_weights(seed: int = 0) -> dict[str, Any]:
    values = np.random.default_rng(seed)
    return {
        "params": {
            "layer_0": {"Lambda": (values.normal(size=8) + 1j * values.normal(size=8)).astype(np.complex64)},
            "layer_1": {
                "Lambda": np.zeros((0,), np.complex64),
                "C": np.zeros((4, 0), np.float32),
            },  # all states removed
            "kernel": values.normal(size=(64, 65)).astype(np.float32),
            "half": values.normal(size=7).astype(ml_dtypes.bfloat16),
        },
        "batch_stats": {},
    }


def make_training(weights: dict[str, Any]) -> dict[str, Any]:
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {
        "optimizer": optimizer.init(jax.tree.map(jnp.asarray, weights["params"])),
        "rng": jax.random.key_data(jax.random.key(3)),
        "step": jnp.int32(11),
        "flags": (np.array([True, False]), np.array([[2**40]])),
    }


def fill(directory: Path, scores: list[float | None], keep_latest: int = 2) -> None:
    with CheckpointStore(directory, keep_latest=keep_latest) as store:
        for step, score in enumerate(scores, start=1):
            weights = make_weights(step)
            store.save(step, weights=weights, training={"step": np.int32(step)}, metadata={}, score=score)


def steps_in(directory: Path) -> set[int]:
    return {int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()}


def assert_same(actual: Any, expected: Any) -> None:
    """Same structure, dtypes, shapes and bytes."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        assert (a.dtype, a.shape) == (np.asarray(e).dtype, np.shape(e))
        assert a.tobytes() == np.asarray(e).tobytes()


def largest_file(item: Path) -> Path:
    return max((file for file in item.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def truncate(step: Path) -> None:
    file = largest_file(step / "weights")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_bit(step: Path) -> None:
    file = largest_file(step / "weights")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def edit_metadata(step: Path) -> None:
    file = step / "metadata" / "metadata"
    file.write_text(file.read_text().replace('"score": 3.0', '"score": 8.0'))


def lose_metadata(step: Path) -> None:
    shutil.rmtree(step / "metadata")


def empty(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


# --- what is saved comes back ---------------------------------------------------------------------------------------


def test_round_trip_is_exact_for_weights_and_optimizer_state(tmp_path: Path) -> None:
    weights, metadata = make_weights(), {"state_dims": [8, 0], "model": {"depth": 2}, "parent": None}
    training = make_training(weights)
    with CheckpointStore(tmp_path / "checkpoints") as store:
        store.save(11, weights=weights, training=training, metadata=metadata, score=0.5)
        checkpoint, restored = store.restore_training(jax.eval_shape(lambda: training) | {"flags": training["flags"]})
    assert_same(checkpoint.weights, weights)
    assert_same(restored, training)
    assert checkpoint.step == 11
    assert checkpoint.metadata.items() >= {**metadata, "schema": 1, "step": 11, "score": 0.5}.items()


def test_load_needs_no_shapes_and_accepts_run_store_and_step(tmp_path: Path) -> None:
    fill(tmp_path / "checkpoints", [1.0, 3.0, 2.0])
    for path, which, step in [
        (tmp_path, "best", 2),
        (tmp_path, "latest", 3),
        (tmp_path / "checkpoints", "best", 2),
        (tmp_path / "checkpoints" / "3", "best", 3),
    ]:
        checkpoint = load(path, which=which)
        assert checkpoint.step == step
        assert checkpoint.path == tmp_path / "checkpoints" / str(step)
        assert_same(checkpoint.weights, make_weights(step))


def test_single_checkpoint(tmp_path: Path) -> None:
    path = save_single(tmp_path / "models" / "reduced", weights=make_weights(5), metadata={"parent": "run/7"})
    assert_same(load(path).weights, make_weights(5))
    assert load(path).metadata["parent"] == "run/7"
    assert [entry.name for entry in path.parent.iterdir()] == ["reduced"]
    with pytest.raises(UserError, match="already exists"):
        save_single(path, weights=make_weights(6), metadata={})
    assert_same(load(path).weights, make_weights(5))


dtypes = st.sampled_from([np.float32, np.float64, np.complex64, np.int32, np.uint32, np.bool_, ml_dtypes.bfloat16])
arrays = st.builds(
    lambda dtype, shape, seed: np.random.default_rng(seed).integers(0, 2, size=shape).astype(dtype),
    dtypes,
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 9),
)
names = st.text("abcxyz_.'/[0é ", min_size=1, max_size=5)
flat = st.dictionaries(st.sampled_from(["kernel", "Lambda", "B_0"]), arrays, max_size=3)
trees = st.dictionaries(st.sampled_from(["params", "layers_1", "norm"]), st.one_of(arrays, flat), max_size=3)


@settings(max_examples=20, deadline=None)
@given(weights=trees, training=st.dictionaries(names, arrays, max_size=3))
def test_round_trip_of_random_trees(weights: dict[str, Any], training: dict[str, Any]) -> None:
    weights, training = {**weights, "bias": np.ones(2, np.float32)}, {"step": np.int64(1), "state": training}
    with tempfile.TemporaryDirectory() as folder, CheckpointStore(Path(folder)) as store:
        store.save(1, weights=weights, training=training, metadata={}, score=None)
        checkpoint, restored = store.restore_training(training)
        assert_same(checkpoint.weights, weights)
        assert_same(restored, training)


def test_arrays_may_be_donated_right_after_save(tmp_path: Path) -> None:
    step = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    on_host, on_device = np.arange(100_000, dtype=np.float32), jnp.arange(100_000, dtype=jnp.float32)
    with CheckpointStore(tmp_path) as store:
        store.save(1, weights={"params": {"x": on_device}}, training={"y": on_host}, metadata={}, score=None)
        on_host[:] = -1
        step(on_device).block_until_ready()
        assert on_device.is_deleted()
        checkpoint, training = store.restore_training({"y": on_host})
    np.testing.assert_array_equal(checkpoint.weights["params"]["x"], np.arange(100_000))
    np.testing.assert_array_equal(training["y"], np.arange(100_000))


def test_training_state_of_another_optimizer_is_not_taken_for_damage(tmp_path: Path) -> None:
    params = {"w": np.ones(3, np.float32)}
    with CheckpointStore(tmp_path) as store:
        store.save(1, weights={"params": params}, training=optax.adam(1e-3).init(params), metadata={}, score=None)
        with pytest.raises(UserError, match=r"does not fit this configuration \(3 differences\)"):
            store.restore_training(optax.sgd(1e-3).init(params))
        with pytest.raises(UserError, match=r"mu\['w'\] is float32\(3,\), now float32\(4,\)"):
            store.restore_training(optax.adam(1e-3).init({"w": np.ones(4, np.float32)}))
    assert steps_in(tmp_path) == {1}


# --- which steps stay -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [
        ([1.0, 5.0, 2.0, 3.0, 4.0], {2, 4, 5}, 2),
        ([1.0, 5.0, 5.0, 5.0, 5.0], {2, 4, 5}, 2),  # of equals the earlier one
        ([0.0, -1.0, -2.0, -3.0, -4.0], {1, 4, 5}, 1),
        ([1.0, 2.0, float("nan"), float("nan"), float("nan")], {2, 4, 5}, 2),
        ([None, None, None, 1.0, 0.0], {4, 5}, 4),
        ([None] * 5, {4, 5}, None),
    ],
)
def test_latest_and_best_are_kept(tmp_path: Path, scores: list[float | None], kept: set[int], best: int | None) -> None:
    fill(tmp_path, scores[:3])
    with CheckpointStore(tmp_path) as store:  # scores must outlive the process
        for step, score in enumerate(scores[3:], start=4):
            store.save(step, weights=make_weights(step), training=None, metadata={}, score=score)
        found, latest = store.best(), store.latest()
    assert steps_in(tmp_path) == kept
    assert (found.step if found else None) == best
    assert latest is not None and latest.step == 5


def test_keep_latest_one(tmp_path: Path) -> None:
    fill(tmp_path, [1.0, 3.0, 2.0, 2.5], keep_latest=1)
    assert steps_in(tmp_path) == {2, 4}
    with pytest.raises(UserError, match="keep_latest is 0"):
        CheckpointStore(tmp_path, keep_latest=0)


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    fill(tmp_path, [1.0])
    with CheckpointStore(tmp_path) as store, pytest.raises(ValueError, match="already saved"):
        store.save(1, weights=make_weights(), training=None, metadata={}, score=None)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [truncate, flip_bit, edit_metadata, lose_metadata, empty])
def test_damage_is_found_and_the_step_before_is_used(tmp_path: Path, damage: Any, caplog: Any) -> None:
    fill(tmp_path, [1.0, 2.0, 3.0])
    damage(tmp_path / "3")
    with pytest.raises(UserError, match=rf"{tmp_path}/3 is damaged|No checkpoint in {tmp_path}/3"):
        load(tmp_path / "3")
    assert load(tmp_path).step == 2
    assert load(tmp_path, which="latest").step == 2
    assert f"{tmp_path}/3 is damaged" in caplog.text
    caplog.clear()
    with CheckpointStore(tmp_path) as store:
        checkpoint, training = store.restore_training({"step": np.int32(0)})
        assert (checkpoint.step, int(training["step"])) == (2, 2)
        assert_same(checkpoint.weights, make_weights(2))
        assert f"{tmp_path}/3 is damaged" in caplog.text
        store.save(3, weights=make_weights(3), training={"step": np.int32(3)}, metadata={}, score=3.0)
        restored = store.restore_training({"step": np.int32(0)})
        assert restored is not None and restored[0].step == 3
        truncate(tmp_path / "3")
        assert store.restore_training({"step": np.int32(0)}) is not None
    assert {entry.name for entry in (tmp_path / "damaged").iterdir()} == {"3", "3-1"}


def test_weights_stay_readable_where_the_training_state_is_lost(tmp_path: Path) -> None:
    fill(tmp_path, [1.0, 2.0])
    shutil.rmtree(tmp_path / "2" / "training")
    assert_same(load(tmp_path / "2").weights, make_weights(2))
    with CheckpointStore(tmp_path) as store:
        checkpoint, _ = store.restore_training({"step": np.int32(0)})
    assert checkpoint.step == 1
    assert steps_in(tmp_path) == {1}


def test_a_flipped_bit_anywhere_is_harmless_or_found(tmp_path: Path) -> None:
    path = save_single(tmp_path / "model", weights=make_weights(), metadata={"state_dims": [8, 0]})
    # Orbax draws the names of data files: by size, every run flips the same bits. Every byte is as likely as any other.
    files = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: (file.stat().st_size, file))
    sizes = [file.stat().st_size for file in files]
    found = 0
    for seed in range(60):
        choice = random.Random(seed)
        (file,) = choice.choices(files, sizes)
        content = file.read_bytes()
        where = choice.randrange(len(content))
        file.write_bytes(content[:where] + bytes([content[where] ^ 1 << choice.randrange(8)]) + content[where + 1 :])
        try:
            assert_same(load(path).weights, make_weights())
        except UserError as error:
            assert str(path) in str(error)
            found += 1
        file.write_bytes(content)
    assert found > 20


def test_a_checksum_under_another_name_is_damage(tmp_path: Path) -> None:
    path = save_single(tmp_path / "model", weights=make_weights(), metadata={"state_dims": [8, 0]})
    (file,) = [file for file in path.rglob("*") if file.is_file() and b'"checksum"' in file.read_bytes()]
    metadata = json.loads(file.read_text())
    metadata["checksum"]["veights"] = metadata["checksum"].pop("weights")
    file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="weights do not match their checksum"):
        load(path)


def test_nothing_intact(tmp_path: Path) -> None:
    fill(tmp_path, [1.0, 2.0])
    truncate(tmp_path / "1")
    flip_bit(tmp_path / "2")
    with pytest.raises(UserError, match=r"None of the steps \[1, 2\] .* is intact"):
        load(tmp_path)
    with CheckpointStore(tmp_path) as store:
        assert store.restore_training({"step": np.int32(0)}) is None
        assert store.best() is None and store.latest() is None


def test_no_score_no_best(tmp_path: Path) -> None:
    fill(tmp_path, [None, float("nan")])
    with pytest.raises(UserError, match=r"None of the steps .* has a score"):
        load(tmp_path)
    assert load(tmp_path, which="latest").step == 2


# --- versions ---------------------------------------------------------------------------------------------------------


def test_newer_schema_is_refused_and_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "SCHEMA", 2)
    fill(tmp_path, [1.0])
    monkeypatch.setattr(integrity, "SCHEMA", 1)
    with pytest.raises(UserError, match="written by a newer s5c"):
        load(tmp_path / "1")
    with pytest.raises(UserError, match="written by a newer s5c"):
        CheckpointStore(tmp_path)
    assert steps_in(tmp_path) == {1}


def test_older_schema_is_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_single(tmp_path / "old", weights=make_weights(), metadata={"dims": [8, 0]})
    monkeypatch.setattr(integrity, "SCHEMA", 3)
    with pytest.raises(UserError, match="schema 1 can no longer be read"):
        load(path)
    monkeypatch.setitem(integrity.MIGRATIONS, 1, lambda old: {**old, "state_dims": old["dims"]})
    monkeypatch.setitem(integrity.MIGRATIONS, 2, lambda old: {**old, "total": sum(old["state_dims"])})
    assert load(path).metadata.items() >= {"schema": 3, "state_dims": [8, 0], "total": 8}.items()


# --- messages ---------------------------------------------------------------------------------------------------------


def test_messages_for_wrong_paths(tmp_path: Path) -> None:
    fill(tmp_path / "run_a" / "checkpoints", [1.0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    expected = {
        tmp_path / "run_b": r"run_b does not exist\. .* contains, nearest first: run_a, ",
        tmp_path / "run_b" / "checkpoints" / "7": "contains, nearest first: run_a, ",
        tmp_path / "run_a" / "checkpoints" / "7": "contains, nearest first: 1",
        tmp_path / "empty": "it contains: nothing",
        tmp_path / "notes": r"it contains: todo\.txt",
        tmp_path / "notes" / "todo.txt": "is a file; a checkpoint is a folder",
    }
    for path, message in expected.items():
        with pytest.raises(UserError, match=message):
            load(path)
    with pytest.raises(UserError, match="Did you mean 'latest'"):
        load(tmp_path / "run_a", which="last")


def test_wrong_content_is_refused_before_writing(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path) as store:
        with pytest.raises(TypeError, match="string keys"):
            store.save(1, weights={"params": [np.ones(2)]}, training=None, metadata={}, score=None)
        with pytest.raises(TypeError, match="JSON"):
            store.save(1, weights=make_weights(), training=None, metadata={"x": jnp.ones(2)}, score=None)
        store.save(1, weights=make_weights(), training=None, metadata={}, score=None)
    assert steps_in(tmp_path) == {1}


def test_full_disk_found_by_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CheckpointStore(tmp_path) as store:
        store.save(1, weights=make_weights(1), training=None, metadata={}, score=1.0, wait=True)
        no_space = OSError(28, "No space left on device")
        wrapped = ValueError("RESOURCE_EXHAUSTED: Error writing")
        wrapped.__cause__ = no_space

        def fail() -> None:
            raise wrapped

        monkeypatch.setattr(store._manager, "wait_until_finished", fail)  # where Orbax raises what its thread met
        with pytest.raises(UserError, match=rf"{tmp_path} is full\.\nThe last good checkpoint is step 1\."):
            store.save(2, weights=make_weights(2), training=None, metadata={}, score=2.0)
        store.save(2, weights=make_weights(2), training=None, metadata={}, score=2.0)
        found = store.best()
    assert isinstance(found, Checkpoint) and found.step == 2
