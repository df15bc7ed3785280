"""`python -m s5c.predict`: the answers are those from Python, however the file is laid out; wrong files are refused."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from networks import PAIRS, PIXELS, TOKENS, network, weights_of

import s5c
from s5c.api import _with_data
from s5c.data.base import Split
from s5c.data.decode import Windows
from s5c.data.padded import Padding
from s5c.data.task.listops_small import Task as ListOps
from s5c.errors import UserError
from s5c.given import padding_of
from s5c.model.classifier import InputSpec
from s5c.networks import Model
from s5c.pipeline import answering, shelf

N, STEPS, TRAINED = 21, 7, [12]


def stored(folder: Path, spec: InputSpec, **options: Any) -> Model:
    """Saves a small network that runs both ways and was trained with padding, and returns it."""
    made = network(spec, **{"n_layers": 1, "bidirectional": True, **options})
    facts = {
        "model": made.config.to_dict(),
        "state_dims": list(made.state_dims),
        "input_spec": list(spec),
        **{"task": {"name": "mine"}, "source": "here", "trained_id": "x", "step_rescale": 1.0},
        "padding": {"lengths": TRAINED, "step": None},
    }
    model = Model("small", made, weights_of(made, np.random.default_rng(0)), facts)
    s5c.save(model, folder)
    return model


def drawn(spec: InputSpec) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, STEPS + 1, (N, 2) if spec.pairs else N)
    if spec.tokens:
        return rng.integers(0, spec.features, (*lengths.shape, STEPS)), lengths
    return rng.normal(size=(N, STEPS, spec.features)).astype(np.float32), lengths


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of each kind."""
    folder = tmp_path_factory.mktemp("predict")
    for name, spec in {"pixels": PIXELS, "tokens": TOKENS, "pairs": PAIRS}.items():
        stored(folder / name, spec)
    return folder


@pytest.mark.parametrize(("kind", "spec"), [("pixels", PIXELS), ("tokens", TOKENS), ("pairs", PAIRS)])
def test_answers_are_those_from_python(
    kind: str, spec: InputSpec, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "BATCHES", 1)
    x, lengths = drawn(spec)
    expected = s5c.load(home / kind).predict(x, lengths=lengths, batch_size=4)
    np.savez(tmp_path / "x.npz", inputs=x, lengths=lengths, labels=np.zeros(N))
    done = jobs.run(
        "predict", f"checkpoint={home / kind}", "inputs=x.npz", "out=y.npz", "batch_size=4", folder=tmp_path
    )
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert f"21 sequences of {STEPS} steps, 1 to 7 of them valid (labels: not looked at)" in said
    assert "padded to 12 steps, as in training" in said
    with np.load(tmp_path / "y.npz") as found:
        assert found.files == ["log_probs"] and found["log_probs"].dtype == np.float32
        np.testing.assert_allclose(found["log_probs"], expected, rtol=0, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz", "y.npz"]


@pytest.fixture
def ask(home: Path, tmp_path: Path) -> Callable[..., Any]:
    """Answers files of the network of pixels, or another; returns the array that is written."""
    model = {kind: s5c.load(home / kind) for kind in ("pixels", "tokens", "pairs")}

    def asked(
        inputs: Path, out: str = "y.npy", *, kind: str = "pixels", lengths: Path | None = None,
        advance: Any = lambda what, n: None, said: Any = lambda text: None,
    ) -> np.ndarray:  # fmt: skip
        known = model[kind]
        padding = padding_of(known.network.config, known.facts, "trained")
        this = answering.Asked(known.network, known.weights, 1.0, padding, 4)
        sequences = answering.Sequences.find(inputs, lengths)
        answering.answer(
            this, sequences, tmp_path / out, said, lambda what, total: nullcontext(lambda n: advance(what, n))
        )
        return np.load(tmp_path / out)

    return asked


def test_it_is_all_one_how_a_file_is_laid_out(ask: Any, tmp_path: Path) -> None:
    x, lengths = drawn(PIXELS)
    np.savez(tmp_path / "plain.npz", inputs=x, lengths=lengths)
    np.savez_compressed(tmp_path / "packed.npz", inputs=x.astype(">f8"), lengths=lengths.astype(np.uint8))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "n.npy", lengths)
    found = [
        ask(tmp_path / "plain.npz"),
        ask(tmp_path / "packed.npz"),
        ask(tmp_path / "x.npy", lengths=tmp_path / "n.npy"),
    ]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_it_goes_on_where_it_was_stopped(ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "BATCHES", 2)
    x, _ = drawn(PIXELS)
    np.save(tmp_path / "x.npy", x)
    whole = ask(tmp_path / "x.npy", "whole.npy")

    def stop(what: str, n: int) -> None:
        seen.append((what, n))
        if sum(n for what, n in seen if what == "sequences answered") >= 12:
            raise KeyboardInterrupt

    seen: list[tuple[str, int]] = []
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "x.npy", advance=stop)
    assert not (tmp_path / "y.npy").exists() and (tmp_path / ".unfinished-y.npy").is_dir()
    told: list[str] = []
    after: list[tuple[str, int]] = []
    again = ask(tmp_path / "x.npy", advance=lambda *step: after.append(step), said=told.append)
    assert np.array_equal(again, whole) and told == ["8 of 21 sequences were answered before."]
    assert after == [("sequences answered", n) for n in (8, 4, 4, 4, 1)], "what fits is not looked at twice"
    assert not (tmp_path / ".unfinished-y.npy").exists()

    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "x.npy", advance=stop)
    np.save(tmp_path / "x.npy", x + 1)  # another question: what is there answers it not
    os.utime(tmp_path / "x.npy", ns=(1, 1))
    told.clear()
    assert not np.allclose(ask(tmp_path / "x.npy", said=told.append), whole) and told == []


def test_memory_is_that_of_a_slice(ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = drawn(PIXELS)
    np.save(tmp_path / "x.npy", x)
    rows: list[int] = []
    split = answering.as_split
    monkeypatch.setattr(answering, "as_split", lambda spec, x, *a, **k: rows.append(len(x)) or split(spec, x, *a, **k))
    monkeypatch.setattr(answering, "SLICE_BYTES", 2 * 4 * 4 * TRAINED[0] * PIXELS.features)  # two batches, padded
    ask(tmp_path / "x.npy")
    assert max(rows) == 8 and sum(rows) == 2 * N


def test_answers_to_every_step_end_where_a_sequence_does(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network with an answer per step: here one that counts its steps, and overflows at the fifth of sequence 2."""

    def counted(network: Any, weights: Any, inputs: Any, lengths: Any, rescale: float) -> np.ndarray:
        said = np.broadcast_to(np.arange(float(inputs.shape[1]))[:, None], (*inputs.shape[:2], 1)).copy()
        if said.shape[1] > 4:
            said[:, 4][np.asarray(inputs)[:, 4, 0] == 99] = np.inf
        return said

    monkeypatch.setattr(answering, "log_probs", counted)
    x, lengths = drawn(PIXELS)
    lengths[:3], x[2:4, 4] = [7, 3, 5], 99  # of sequence 3 that is padding
    lengths[3] = 4
    np.savez(tmp_path / "x.npz", inputs=x, lengths=lengths)
    known = s5c.load(home / "pixels")
    for padding in (Padding((4, 9)), None):
        asked = answering.Asked(known.network, known.weights, 1.0, padding, 4)
        place = answering.Sequences.find(tmp_path / "x.npz")
        assert answering.answer(asked, place, tmp_path / "y.npy", lambda text: None) == 1
        found = np.load(tmp_path / "y.npy")
        assert found.shape == (N, STEPS, 1)
        assert np.array_equal(np.isnan(found[..., 0]), np.arange(STEPS) >= lengths[:, None])
        assert found[0, :, 0].tolist() == list(range(STEPS)) and np.isinf(found[2, 4, 0])


# ---- padding


def test_a_network_of_the_zoo_is_asked_with_the_padding_of_its_training() -> None:
    """The answers stored beside it are to sequences of the full length."""
    model = s5c.load("zoo:listops_small_s5")
    rng = np.random.default_rng(2)
    x, lengths = rng.integers(3, 18, (4, 40)), np.array([40, 9, 23, 31])
    full = np.pad(x, ((0, 0), (0, 60)))
    expected = model.predict(full, lengths=lengths, pad="given")
    for shorter in (x, full[:, :77], np.pad(full, ((0, 0), (0, 20)))):
        assert np.array_equal(model.predict(shorter, lengths=lengths), expected)
    assert np.array_equal(
        model.predict(x, lengths=lengths, pad=[40, 100])[1:], model.predict(x, lengths=lengths, pad=40)[1:]
    )
    assert np.abs(model.predict(x, lengths=lengths, pad="given") - expected).max() > 1
    assert model.evaluate(x, [0] * 4, lengths=lengths).loss == model.evaluate(full, [0] * 4, lengths=lengths).loss


def test_sequences_that_a_reduction_looks_at_are_padded_as_in_training(home: Path) -> None:
    model = s5c.load(home / "pairs")
    x, lengths = drawn(PAIRS)
    wide = np.concatenate([x, np.zeros_like(x)], axis=2)  # wider than in training, by padding alone
    seen = [_with_data(model, data, lengths, None, None).splits.train for data in (x, wide)]
    for split in seen:
        assert isinstance(split.inputs, np.ndarray) and split.inputs.shape == (N, 2, TRAINED[0])
        assert np.array_equal(split.inputs[..., :STEPS], x) and not split.inputs[..., STEPS:].any()
        assert np.array_equal(split.lengths, lengths)
    unpadded = _with_data(model, x, None, None, None).splits.train
    assert unpadded.lengths is not None and (unpadded.lengths == STEPS).all()


@pytest.mark.parametrize(
    ("pad", "lengths"), [("full", [100]), ("bucket", [25, 50, 100]), ([64, 100], [64, 100]), (2, None)]
)
def test_what_a_checkpoint_records_is_what_the_options_of_older_ones_tell(
    pad: Any, lengths: list[int] | None, tmp_path: Path
) -> None:
    task = ListOps(cache_dir=str(tmp_path), examples=[40, 10, 10], pad=pad, source="generated")
    padding = Padding.of(task.load())
    assert padding is not None and (lengths is None or list(padding.lengths) == lengths)
    facts = {"input_spec": [20, 10, True, False], "task": {"max_length": 100, "pad": pad}}
    assert Padding.known({**facts, "padding": padding.record()}) == padding
    assert Padding.known(facts) == (None if lengths is None else padding)
    assert Padding.known({**facts, "padding": None}) is None and Padding.known({"input_spec": [1]}) is None


def test_windows_of_several_tokens_are_padded_with_windows_of_padding() -> None:
    facts = shelf.card("imdb_small_s5")
    padding = Padding.known(facts)
    assert padding is not None and padding.lengths == (512,)
    windows = Windows(facts["input_spec"][0] // 4, 4, 2)
    raw = np.random.default_rng(0).integers(1, 51, (2, 30))
    full = windows(np.pad(raw, ((0, 0), (0, 1024 - 30))))
    assert np.array_equal(padding.fitted(windows(raw), 512, axis=1), full)


def test_the_padding_of_a_task_has_the_features_that_it_pads_with() -> None:
    class Filled(Split):
        def read(self, rows: np.ndarray, *, pad_to: int | None = None) -> np.ndarray:
            x = np.zeros((len(rows), 6, 2), np.float32)
            x[:, 3:] = [0.5, -1]
            return x

    from s5c.data.base import Dataset

    split = Filled(np.zeros((2, 6)), np.zeros(2, np.int32), np.array([3, 6], np.int32))
    assert Padding.of(Dataset("t", "s", split, split, 2, 2)) == Padding((6,), (0.5, -1.0))
    without = Split(np.zeros((2, 6, 1)), np.zeros(2, np.int32))
    assert Padding.of(Dataset("t", "s", without, without, 1, 2)) is None


# ---- what is refused


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def member(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(name, content)
    return file.getvalue()


X = drawn(PIXELS)[0]
IDS = drawn(TOKENS)[0]
NAN = X.copy()
NAN[13, 2, 1] = np.nan
FLIPPED = bytearray(npz(inputs=X))
FLIPPED[400] ^= 1
WRONG: dict[str, tuple[str, bytes, str]] = {
    "no_array": ("pixels", npz(), "holds no array; save it as np.savez"),
    "another_name": ("pixels", npz(x=X), r"holds x; save it as np.savez\(file, inputs=...\)"),
    "positional": ("pixels", member("arr_0.npy", npy(X)), "holds arr_0"),
    "text": ("pixels", b"1,2,3\n4,5,6\n", "no array of NumPy"),
    "empty": ("pixels", b"", "no array of NumPy"),
    "cut_npy": ("pixels", npy(X)[:-10], "is cut short: 1,166 bytes"),
    "cut_npz": ("pixels", npz(inputs=X)[:-30], "no array of NumPy"),
    "longer": ("pixels", npy(X) + b"1234", "has something behind its array"),
    "oversized": ("pixels", npy(X).replace(b"(21, 7, 2)", b"(9**9, 7,)"), "no array of NumPy"),
    "announced": ("pixels", npy(X).replace(b"(21, 7, 2)", b"(9999,7,2)"), "is cut short"),
    "flipped": ("pixels", bytes(FLIPPED), "damaged"),
    "pickle": ("pixels", npy(np.array([None, 1]), allow_pickle=True), "Python objects"),
    "pickle_inside": ("pixels", member("inputs.npy", npy(np.array([{}]), allow_pickle=True)), "Python objects"),
    "pickled_dict": ("pixels", b"\x80\x04}\x94.", "no array of NumPy"),
    "columns": ("pixels", npy(np.asfortranarray(X)), "np.ascontiguousarray"),
    "scalar": ("pixels", npy(np.float32(1)), "nothing along a first axis"),
    "none": ("pixels", npy(X[:0]), "there is no sequence"),
    "no_step": ("pixels", npy(X[:, :0]), "there is no sequence"),
    "nan": ("pixels", npy(NAN), "not finite, the first in sequence 13"),
    "too_large": ("pixels", npy(np.full((9, 3, 2), 1e300)), "not finite, the first in sequence 0"),
    "channels": ("pixels", npy(X[..., :1]), r"this network reads \(n, length, 2\)"),
    "flat": ("pixels", npy(X[..., 0]), r"this network reads \(n, length, 2\)"),
    "complex": ("pixels", npy(X.astype(complex)), "complex128"),
    "strings": ("pixels", npy(np.full((3, 4, 2), "a")), "this network reads"),
    "records": ("pixels", npy(np.zeros(3, [("a", "f4")])), "this network reads"),
    "id_too_large": (
        "tokens",
        npy(np.where(np.arange(N)[:, None] == 17, 7, IDS)),
        "first wrong one in sequence 17: .* 0 to 6",
    ),
    "id_negative": ("tokens", npy(IDS - 1), "Ids from -1"),
    "reals_for_ids": ("tokens", npy(IDS.astype(float)), r"this network reads \(n, length\) of ids"),
    "one_text": ("pairs", npy(IDS), r"this network reads \(n, 2, length\) of ids"),
    "lengths_zero": ("pixels", npz(inputs=X, lengths=np.zeros(N, int)), "lengths must be whole numbers from 1 to 7"),
    "lengths_long": ("pixels", npz(inputs=X, lengths=np.full(N, 8)), "lengths must be whole numbers from 1 to 7"),
    "lengths_real": ("pixels", npz(inputs=X, lengths=np.full(N, 2.5)), "lengths must be whole numbers"),
    "lengths_text": ("pixels", npz(inputs=X, lengths=np.full(N, "2")), "lengths must be whole numbers, not <U1"),
    "lengths_few": ("pixels", npz(inputs=X, lengths=np.full(N - 1, 2)), r"lengths has shape \(20,\), but there are 21"),
    "lengths_wide": ("pixels", npz(inputs=X, lengths=np.full((N, 9), 2)), r"lengths has shape \(21, 9\)"),
    "lengths_of_one": ("pairs", npz(inputs=drawn(PAIRS)[0], lengths=np.full(N, 2)), "lengths must be whole numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_and_leaves_nothing_behind(case: str, ask: Any, tmp_path: Path) -> None:
    kind, content, message = WRONG[case]
    path = tmp_path / ("x.npz" if content[:2] == b"PK" else "x.npy")
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        ask(path, "new/folder/y.npy", kind=kind)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inputs=there.npz", "out=y.npz"), "there.npz is no file"),
        (("inputs=x.npy", "out=y.csv"), "ends in .npz or .npy"),
        (("inputs=x.npy", "out=x.npy"), "is what is read"),
        (("inputs=x.npy", "out=y.npy", "pad=3"), "pad=3: a sequence has 7 steps"),
        (("inputs=x.npy", "out=y.npy", "pad=none"), "pad='none': give trained"),
        (("inputs=x.npy", "out=y.npy", "pad=[9,8]"), "several that increase"),
        (("inputs=x.npy", "out=y.npy", "batch_size=0"), "batch_size=0: give a whole number"),
        (("inputs=x.npy", "out=y.npy", "+size=1"), "Unknown key 'size'"),
        (("inputs=x.npy", "out=y.npy", "weights=last"), "Unknown checkpoint 'last'"),
        (("inputs=x.npy",), "out is not set"),
    ],
)
def test_a_wrong_command_is_one_message(arguments: tuple[str, ...], message: str, home: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    done = jobs.run("predict", f"checkpoint={home / 'pixels'}", *arguments, folder=tmp_path)
    assert done.code == 1 and message in " ".join(done.err.split()) and "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
