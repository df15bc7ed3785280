"""s5c from Python: what a notebook does, and that it is what the commands do."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import impulse
import jax
import jaxtyping
import jobs
import numpy as np
import pytest
import scipy.linalg
from matplotlib.figure import Figure
from systems import random_system

import s5c
from s5c.data.task.digits import Task
from s5c.pipeline.portable import read
from s5c.training.checkpoint import load as load_checkpoint

ZOO = "zoo:digits_s5"


@pytest.fixture(scope="module")
def model() -> Any:
    """The small model of the zoo, whose data comes with a package."""
    return s5c.load(ZOO)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test inputs and classes, and training inputs."""
    digits = Task().load()
    rows = np.arange(len(digits.test))
    return digits.test.read(rows), digits.test.labels, digits.train.read(np.arange(64))


def equal(one: Any, other: Any) -> bool:
    a, b = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


NOTEBOOK = """
import sys
import s5c
assert not {"jax", "numpy"} & set(sys.modules), "nothing is imported before it is used"
import numpy as np
model = s5c.load("zoo:digits_s5")
small = s5c.reduce(model, "last", ratio=0.5)
assert small.predict(np.zeros((2, 64, 1))).shape == (2, 10)
print([name for name in ("hydra", "wandb", "tensorflow_datasets", "matplotlib") if name in sys.modules])
"""


def test_a_notebook_needs_no_hydra_and_no_wandb() -> None:
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_reducing_is_what_the_command_does(model: Any, tmp_path: Path) -> None:
    before = jax.tree.map(np.array, model.weights)
    small = s5c.reduce(model, "last", ratio=0.5, eps=1e-8)
    options = ("reduction=last", "reduction.ratio=0.5", "reduction.eps=1e-8", "evaluation.latency=false")
    done = jobs.run("reduce", f"checkpoint={ZOO}", *options, "wandb=disabled", folder=tmp_path)
    assert done.code == 0, done.err
    saved = load_checkpoint(jobs.only(tmp_path, "results/reduce/*/reduced/last-0.5"))
    assert equal(small.weights, saved.weights)
    for key in ("state_dims", "model", "reductions", "task", "source", "trained_id"):
        assert small.facts[key] == saved.metadata[key], key
    assert equal(model.weights, before) and model.reduced is None and model.states == 192
    assert small.states == 96 == sum(small.orders) and small.parameters < model.parameters
    row = jobs.rows(jobs.only(tmp_path, "results/reduce/*/rows.jsonl"))[1]
    assert row["orders"] == small.orders and row["params"] == small.parameters
    assert row["error_h2"] == [error.h2 for error in small.reduced.errors]


@pytest.mark.slow
def test_what_looks_at_data_gets_arrays(model: Any, data: tuple[np.ndarray, ...]) -> None:
    x, y, train = data
    small = s5c.reduce(model, "calibrated", ratio=0.8, data=train)
    found = small.evaluate(x, y)
    assert found.examples == len(y) and found == small.evaluated
    assert found.accuracy == pytest.approx(np.mean(small.predict(x).argmax(1) == y))
    assert found.accuracy > model.evaluate(x, y).accuracy - 0.05
    assert "calibrated" in small.summary() and "38 (" in small.summary()
    flat = small.predict(x[..., 0], batch_size=100)
    np.testing.assert_allclose(flat, small.predict(x), atol=1e-5)


@pytest.mark.slow
def test_a_drop_is_searched_on_validation_data(model: Any, data: tuple[np.ndarray, ...]) -> None:
    digits = Task().load()
    validation = data[2], digits.train.labels[:64]
    small = s5c.reduce(model, "last", max_drop=2.0, validation=validation)
    assert model.evaluate(*validation).accuracy - small.evaluate(*validation).accuracy <= 0.02 + 1e-9
    assert small.states < model.states


def test_what_is_saved_is_read_from_python_and_by_commands(
    model: Any, data: tuple[np.ndarray, ...], tmp_path: Path
) -> None:
    x, y, _ = data
    small = s5c.reduce(model, "bt", order=6)
    small.evaluate(x, y)
    folder = s5c.save(small, tmp_path / "small")
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "weights.safetensors"]
    again = s5c.load(folder)
    assert equal(again.weights, small.weights) and again.name == small.name and again.orders == small.orders
    assert json.loads((folder / "card.json").read_text())["evaluated"]["accuracy"] == small.evaluated.accuracy
    s5c.save(s5c.reduce(again, "last", ratio=0.5), folder)
    assert "then last at 0.5" in s5c.load(folder).summary()
    s5c.save(small, folder)
    done = jobs.run("evaluate", f"checkpoint={folder}", "evaluation.latency=false", "wandb=disabled", folder=tmp_path)
    assert done.code == 0, done.err
    (row,) = jobs.rows(jobs.only(tmp_path, "results/evaluate/*/rows.jsonl"))
    assert row["test_accuracy"] == small.evaluated.accuracy and row["arm"] == "as given (of bt (by order) at order-6)"
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(s5c.UserError, match="damaged"):
        read(folder)


def test_networks_side_by_side(model: Any, data: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    x, y, _ = data
    small = s5c.reduce(model, "last", ratio=0.5)
    for one in (model, small):
        one.evaluate(x, y)
    found = s5c.compare([model, small])
    assert found.rows[0]["agreement"] == 1 and found.rows[1]["states"] == 96
    assert found.rows[1]["agreement"] == np.mean(small.predict(x).argmax(1) == model.predict(x).argmax(1))
    assert str(found).count("\n") == 3 and "| digits_s5 last 0.5 | 96 |" in str(found)
    assert [len(layer) for layer in found.decays[1]] == small.orders
    figure = found.plot(tmp_path / "figure.png")
    assert found._repr_markdown_() == str(found) and figure._repr_png_()[:4] == b"\x89PNG"
    assert isinstance(figure, Figure) and len(figure.axes) == 5 and (tmp_path / "figure.png").stat().st_size > 10_000


WRONG: dict[str, tuple[Any, str]] = {
    "no such model": (lambda m: s5c.load("zoo:digits"), "no zoo model 'digits'"),
    "no such folder": (lambda m: s5c.load("nowhere"), "does not exist"),
    "no such preset": (lambda m: s5c.reduce(m, "lasst"), "Did you mean 'last'"),
    "no such key": (lambda m: s5c.reduce(m, "last", rato=0.5), "Did you mean 'reduction.ratio'"),
    "idle": (lambda m: s5c.reduce(m, "last", layer_sensitivity="gradient", data=np.zeros((4, 64))), "changes nothing"),
    "out of range": (lambda m: s5c.reduce(m, "last", ratio=1.5), r"must lie in \[0, 1\)"),
    "several": (lambda m: s5c.reduce(m, "last", ratio=[0.1, 0.2]), "one target"),
    "without data": (lambda m: s5c.reduce(m, "calibrated"), "give data="),
    "without validation": (lambda m: s5c.reduce(m, "last", max_drop=1.0), "validation="),
    "trained afterwards": (lambda m: s5c.reduce(m, "bt_init"), "needs a task"),
    "length": (lambda m: s5c.reduce(m, "last", method="aire", horizon="sequence", score="paper"), "eps|length"),
    "shape": (lambda m: m.predict(np.zeros((3, 4, 5))), r"shape \(3, 4, 5\)"),
    "not finite": (lambda m: m.predict(np.full((2, 64), np.nan)), "not finite"),
    "classes": (lambda m: m.evaluate(np.zeros((2, 64)), [3, 10]), "from 0 to 9"),
    "lengths": (lambda m: m.predict(np.zeros((2, 64)), lengths=[65, 1]), "from 1 to 64"),
    "nothing": (lambda m: s5c.compare([]), "nothing to compare"),
    "order": (lambda m: s5c.reduce_system(m.systems()[0], order=99), "from 1 to 32"),
    "option": (lambda m: s5c.reduce_system(m.systems()[0], order=4, colour=1), "colour"),
    "moments": (lambda m: s5c.reduce_system(m.systems()[0], order=4, method="calibrated"), "looks at data"),
}


X, Y = np.zeros((4, 64)), np.zeros(4, int)
WRONG |= {
    "weights": (lambda m: s5c.load(ZOO, weights="lasst"), "Unknown checkpoint 'lasst'"),
    "no weights": (lambda m: s5c.load(ZOO, weights=None), "Unknown checkpoint None"),
    "preset of another type": (lambda m: s5c.reduce(m, 3), "Unknown reduction preset 3"),
    "no network": (lambda m: s5c.reduce(ZOO, ratio=0.5), "s5c.load"),
    "a group that is none": (lambda m: s5c.reduce(m, finetune=3), "reduction.finetune=3 is no group"),
    "a group that is a list": (lambda m: s5c.reduce(m, calibration=[1]), "its keys are sequences"),
    "where a command writes": (lambda m: s5c.reduce(m, save=True), "save= changes nothing"),
    "idle data": (lambda m: s5c.reduce(m, "last", data=X), "data= changes nothing"),
    "idle lengths": (lambda m: s5c.reduce(m, "last", lengths=[64] * 4), "lengths= are those of data="),
    "idle validation": (lambda m: s5c.reduce(m, "last", validation=(X, Y)), "looked at for max_drop="),
    "no pair": (lambda m: s5c.reduce(m, "last", max_drop=1.0, validation=(X,)), "two things"),
    "no pair at all": (lambda m: s5c.reduce(m, "last", max_drop=1.0, validation=3), "two things"),
    "ragged": (lambda m: s5c.reduce(m, "calibrated", data=[[1, 2], [3]]), "filled up to the longest"),
    "ragged inputs": (lambda m: m.predict([[1, 2], [3]]), "filled up to the longest"),
    "a number for data": (lambda m: s5c.reduce(m, "calibrated", data=3), "reads"),
    "broken lengths": (lambda m: m.predict(X, lengths=[1.5] * 4), "whole numbers from 1 to 64"),
    "lengths of nan": (lambda m: m.predict(X, lengths=[np.nan] * 4), "whole numbers from 1 to 64"),
    "lengths of text": (lambda m: m.predict(X, lengths=["a"] * 4), "whole numbers from 1 to 64"),
    "negative length": (lambda m: s5c.reduce(m, "aire", length=-1), "length=-1"),
    "broken length": (lambda m: s5c.reduce(m, "aire", length=1.5), "length=1.5"),
    "unknown length": (lambda m: s5c.reduce(m, "lqo"), "Use infinite, or length="),
    "treatment": (lambda m: s5c.reduce(m, "bt", unstable="protect"), "value for reduction.unstable 'protect'"),
    "batch": (lambda m: m.predict(X, batch_size=0), "batch_size=0"),
    "negative batch": (lambda m: m.predict(X, batch_size=-1), "batch_size=-1"),
    "broken batch": (lambda m: m.predict(X, batch_size=1.5), "batch_size=1.5"),
    "no classes": (lambda m: m.evaluate(X, None), "give y"),
    "ragged classes": (lambda m: m.evaluate(X, [[1], [2, 3], 1, 1]), "The classes are no array"),
    "one network": (lambda m: s5c.compare(m), "takes a list"),
    "a number to compare": (lambda m: s5c.compare(3), "takes a list"),
    "no networks": (lambda m: s5c.compare([m, 3]), "s5c.load"),
    "kind of figure": (lambda m: s5c.compare([m]).plot("figure.xyz"), "cannot be written"),
    "folder of a figure": (lambda m: s5c.compare([m]).plot("nowhere/figure.png"), "cannot be written"),
    "no path of a figure": (lambda m: s5c.compare([m]).plot(3), "cannot be written"),
    "save nothing": (lambda m: s5c.save(3, "folder"), "s5c.load"),
    "load nothing": (lambda m: s5c.load(""), "no folder"),
    "save nowhere": (lambda m: s5c.save(m, None), "no folder"),
    "save in a file": (lambda m: s5c.save(m, Path(__file__) / "folder"), "cannot be written"),
    "broken order": (lambda m: s5c.reduce_system(m.systems()[0], order=2.5), "from 1 to 32"),
    "order of text": (lambda m: s5c.reduce_system(m.systems()[0], order="a"), "from 1 to 32"),
    "order of truth": (lambda m: s5c.reduce_system(m.systems()[0], order=True), "from 1 to 32"),
    "no method": (lambda m: s5c.reduce_system(m.systems()[0], order=2, method=None), "Unknown reduction method None"),
    "no system": (lambda m: s5c.reduce_system(m, order=2), "s5c.DiagonalSSM"),
    "values of no system": (lambda m: s5c.hankel_singular_values(m), "s5c.DiagonalSSM"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_a_message(case: str, model: Any) -> None:
    call, message = WRONG[case]
    try:
        with pytest.raises(s5c.UserError, match=message):
            call(model)
    except jaxtyping.TypeCheckError:  # the checks of annotations came first
        pytest.skip("in a process of its own: test_wrong_types_are_messages_where_annotations_are_not_checked")


@pytest.mark.slow
def test_wrong_types_are_messages_where_annotations_are_not_checked(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_api; test_api.say_all()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def say_all() -> None:
    """Prints the cases that are not refused with their message."""
    model = s5c.load(ZOO)
    for case, (call, message) in WRONG.items():
        try:
            call(model)
        except s5c.UserError as error:
            if not re.search(message, str(error)):
                print(case, "says", error)
        else:
            print(case, "passes")


def test_numbers_of_numpy_are_numbers(model: Any) -> None:
    usual = s5c.reduce(model, "last", ratio=0.5)
    for ratio in (np.float64(0.5), np.float32(0.5), np.array(0.5), np.array([0.5]), jax.numpy.asarray(0.5)):
        assert equal(s5c.reduce(model, "last", ratio=ratio).weights, usual.weights)
    assert s5c.reduce(model, "last", order=np.int64(4)).orders == [4] * 6


def test_layers_are_drawn_without_data(model: Any) -> None:
    assert s5c.reduce(model, "fresh", order=4).orders == [4] * 6


def test_a_folder_of_something_else_is_left_alone(model: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(s5c.UserError, match="something else"):
        s5c.save(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_module_of_the_command_is_the_function_too(model: Any) -> None:
    import s5c.reduce

    assert s5c.reduce(model, "last", ratio=0.5).states == 96
    assert {"load", "reduce", "save", "compare", "Model"} <= set(dir(s5c))
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        s5c.laod  # noqa: B018


def test_the_python_of_the_readme_runs(
    data: tuple[np.ndarray, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    code = readme.partition("## From Python\n\n```python\n")[2].partition("```")[0]
    assert code.count("s5c.") >= 8
    monkeypatch.chdir(tmp_path)
    x, y, train = data
    names: dict[str, Any] = {"x": x, "y": y, "inputs": train}
    exec(code, names)
    assert "| digits_s5 | 192 |" in capsys.readouterr().out and (tmp_path / "folder" / "card.json").is_file()
    assert names["small"].states == 38 and names["small"].evaluated.examples == 360


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_hankel_singular_values_of_one_system_without_an_x64_block(dtype: Any, rng: np.random.Generator) -> None:
    """Against the Gramians of the dense discrete system of both halves, solved by SciPy."""
    system = random_system(rng, 6, 2)
    system = jax.tree.map(lambda x: np.asarray(x).astype(dtype if np.iscomplexobj(x) else dtype(0).real.dtype), system)
    found = s5c.hankel_singular_values(system)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jax.numpy.asarray(x, complex if np.iscomplexobj(x) else float), system)
        a, B = (np.asarray(x) for x in wide.discretise())
    A = np.diag(np.concatenate([a, a.conj()]))
    B, C = np.concatenate([B, B.conj()]), np.concatenate([np.asarray(wide.C), np.asarray(wide.C).conj()], axis=1)
    P = scipy.linalg.solve_discrete_lyapunov(A, B @ B.conj().T)
    Q = scipy.linalg.solve_discrete_lyapunov(A.conj().T, C.conj().T @ C)
    expected = np.sqrt(np.sort(np.abs(scipy.linalg.eigvals(P @ Q)))[::-1])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[:6], expected[:6], rtol=1e-6)


@pytest.mark.parametrize("method", ["bt", "hinf", "magnitude"])
def test_one_system_is_reduced(method: str, rng: np.random.Generator) -> None:
    system = random_system(rng, 8, 1)
    small = s5c.reduce_system(system, order=3, method=method)
    assert small.state_dim == 3 and small.Lambda.dtype == np.complex128
    with jax.enable_x64(True):
        assert (np.abs(small.discretise()[0]) < 1).all()


def test_a_network_with_numbers_that_are_none_is_refused_wherever_they_are(model: Any) -> None:
    for part in ("decoder", "encoder"):
        broken = copy.deepcopy(jax.tree.map(np.array, model.weights))
        first = jax.tree.leaves(broken["params"][part])[0]
        first.flat[0] = np.nan
        with pytest.raises(s5c.UserError, match=rf"params/{part}/.* not finite"):
            s5c.reduce(dataclasses.replace(model, weights=broken), "last", ratio=0.5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_norm_gain_and_taps_of_one_system_are_those_of_its_impulse_response(
    bidirectional: bool, rng: np.random.Generator
) -> None:
    system = random_system(rng, 5, 2, bidirectional=bidirectional, radius=0.9)
    taps = impulse.impulse_response(system, 400)
    assert s5c.h2_norm(system) == pytest.approx(np.sqrt(impulse.energy(taps)), rel=1e-9)
    assert s5c.h2_norm(system, horizon=3) == pytest.approx(np.sqrt(impulse.energy(taps[397:402])), rel=1e-7)
    np.testing.assert_allclose(s5c.dc_gain(system), taps.sum(0), rtol=1e-9, atol=1e-9)
    forward = impulse.impulse_response(dataclasses.replace(system, C_backward=None), 7)[6:]
    np.testing.assert_allclose(s5c.impulse_response(system, 7), forward, rtol=1e-9, atol=1e-9)
    single = jax.tree.map(lambda x: np.asarray(x, np.complex64 if np.iscomplexobj(x) else np.float32), system)
    assert s5c.h2_norm(single) == pytest.approx(float(s5c.h2_norm(system)), rel=1e-4)


def test_channels_and_unstable_modes_have_norms_of_their_own(rng: np.random.Generator) -> None:
    one, other = (random_system(rng, 3, 1) for _ in range(2))
    with jax.enable_x64(True):
        other = dataclasses.replace(other, Lambda=other.Lambda + 2 * abs(other.Lambda.real).max())
        channels = jax.tree.map(lambda *x: jax.numpy.stack(x), one, other)
    np.testing.assert_allclose(s5c.h2_norm(channels), [s5c.h2_norm(one), np.inf], rtol=1e-12)
    assert np.isfinite(s5c.h2_norm(channels, horizon=4)).all() and s5c.impulse_response(channels, 4).shape == (
        2,
        4,
        1,
        1,
    )
    with pytest.raises(s5c.UserError, match="never settles"):
        s5c.dc_gain(channels)
    for horizon in (0, True):
        with pytest.raises(s5c.UserError, match="at least 1"):
            s5c.h2_norm(one, horizon=horizon)
        with pytest.raises(s5c.UserError, match="at least 1"):
            s5c.impulse_response(one, horizon)
    for function in (lambda: s5c.h2_norm(one, horizon=1.5), lambda: s5c.impulse_response(one, 1.5)):
        with pytest.raises((s5c.UserError, TypeError), match=r"at least 1|1\.5"):  # annotations may be checked first
            function()


def test_what_there_is_has_names() -> None:
    assert {"hinf", "bt"} <= set(s5c.method_names()) and {"normalised"} <= set(s5c.allocation_names())
    assert "h2" in s5c.refit_names() and {"h2_norm", "from_published"} <= set(dir(s5c))
