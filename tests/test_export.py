"""What is exported answers as the network does: the plan of a step, C, ONNX, StableHLO, each by its own check."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jobs
import networks
import numpy as np
import pytest

import s5c
from s5c import lookup
from s5c.errors import UserError
from s5c.export.exported import Exported
from s5c.export.format import c, onnx, stablehlo
from s5c.export.plan import plan
from s5c.model import family as families
from s5c.model.classifier import Classifier
from s5c.model.inputs import InputSpec
from s5c.model.rounding import Matrix, rounded
from s5c.units import Scale, Targets

FACTS = {"model": {"name": "s5"}, "task": {"name": "none"}}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"norm": "layer", "pooling": "last", "activation": "gelu"},
    {"prenorm": False, "activation": "half_glu2"},
    {"prenorm": False, "norm": "layer", "activation": "full_glu"},
    {"activation": "lqo", "discretisation": "bilinear"},
    *({"family": name} for name in lookup.names(families) if name != "s5"),
    {"family": "s4d", "norm": "layer", "B": "free"},
    {"spec": networks.TOKENS},
    {"gelu": "exact", "norm": "layer", "layer_eps": 1e-3},
    {"spec": InputSpec(2, 2, targets=Targets((1.0, 2.0), (2.0, 0.5)), scale=Scale((1.0, 0.0), (2.0, 1.0)))},
    {"spec": InputSpec(2, 1, targets=Targets((1.0,), (3.0,), True))},
]

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("make") is None, reason="needs a C compiler and make"
)


def made(options: dict[str, Any], bits: int = 32) -> Exported:
    """Returns a small network with random weights, its layers of different sizes and one with a constant."""
    rng = np.random.default_rng(3)
    model: Classifier = networks.network(**options)
    model = model.clone(state_dims=(model.state_dims[0], model.state_dims[1] - 1))
    weights = networks.weights_of(model, rng)
    layers = [layer["seq"] for layer in weights["params"]["encoder"].values() if "seq" in layer]
    for layer in layers:  # of quadratic outputs in a row, large ones lose digits in any order of summation
        layer |= {"B": layer["B"] / 10} if "B" in layer else {}
    layers[1]["bias"] = jnp.asarray(rng.normal(size=6), jnp.float32)
    return Exported("tiny", model, weights, FACTS, step_rescale=1.5, bits=bits, lengths=(9,))


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.few(2)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_plan_of_a_step_is_the_network(options: dict[str, Any]) -> None:
    exported = made(options)
    inputs = exported.inputs(9)
    found = plan(exported.model, exported.weights, step_rescale=1.5).run(inputs)
    right = exported.model.apply(exported.weights, jnp.asarray(inputs), step_rescale=1.5)
    each = found if right.ndim == 3 else found[:, -1]
    np.testing.assert_allclose(each, np.asarray(right), rtol=1e-5, atol=1e-5)


@pytest.mark.few(2)
@needs_compiler
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_c_is_strict_and_answers_as_the_network_does(options: dict[str, Any], tmp_path: Path) -> None:
    assert c.write(made(options), tmp_path) == "make check"
    done = run("make check CFLAGS=-O0", tmp_path)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.few(2)
@needs_compiler
@pytest.mark.parametrize("bits", [32, 8, 6, 4])
@pytest.mark.parametrize("options", [{}, {"family": "s4d", "spec": networks.TOKENS}], ids=["joint", "channels"])
def test_any_bits_as_samples_have_a_defined_answer(options: dict[str, Any], bits: int, tmp_path: Path) -> None:
    """20,000 samples under the address and undefined-behaviour sanitizers, NaN, infinities and denormals among them."""
    c.write(made(options, bits), tmp_path)
    done = run("make sanitize", tmp_path)
    assert done.returncode == 0 and "20000 samples" in done.stdout, done.stdout + done.stderr


@needs_compiler
def test_a_wrong_weight_is_noticed_by_the_test_that_goes_with_it(tmp_path: Path) -> None:
    c.write(made({}), tmp_path)
    text = (tmp_path / "tiny.c").read_text()
    start = text.index("l1_a_re[")
    (tmp_path / "tiny.c").write_text(text[:start] + text[start:].replace("  0.", "  0.5", 1))
    done = run("make check", tmp_path)
    assert done.returncode != 0 and "FAILED" in done.stdout


@needs_compiler
def test_the_example_reads_samples(tmp_path: Path) -> None:
    exported = made({})
    c.write(exported, tmp_path)
    inputs = exported.inputs(5, 1)
    (tmp_path / "samples.csv").write_text("\n".join(",".join(map(str, step)) for step in inputs[0].tolist()))
    done = run("make -s example && ./example < samples.csv", tmp_path)
    right = np.exp(plan(exported.model, exported.weights, step_rescale=1.5).run(inputs)[0])
    said = [line.split("\t") for line in done.stdout.splitlines()]
    assert [int(words[1]) for words in said] == right.argmax(axis=1).tolist()
    np.testing.assert_allclose([float(words[2]) for words in said], right.max(axis=1), atol=1e-4)


@pytest.mark.few(4)
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs s5c[onnx]")
@pytest.mark.parametrize("bits", [32, 6, 4])
@pytest.mark.parametrize(
    "options", [OPTIONS[0], OPTIONS[1], OPTIONS[3], OPTIONS[4], OPTIONS[-5], *OPTIONS[-4:]], ids=str
)
def test_onnx_answers_as_the_network_does(options: dict[str, Any], bits: int, tmp_path: Path) -> None:
    onnx.write(made(options, bits), tmp_path)
    done = run(f"{sys.executable} {WITHOUT_S5C} check.py", tmp_path)
    assert done.returncode == 0 and "largest deviation" in done.stdout, done.stdout + done.stderr


WITHOUT_S5C = (
    "-c \"import runpy, sys; sys.modules['s5c'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])\""
)
"""Runs a script in a process that cannot import s5c."""


@pytest.mark.skipif(importlib.util.find_spec("flatbuffers") is None, reason="needs s5c[stablehlo]")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"bidirectional": True}, id="both directions", marks=pytest.mark.slow),
        pytest.param({"spec": networks.PAIRS}, id="pairs"),
        pytest.param({"family": "s4d"}, id="channels", marks=pytest.mark.slow),
    ],
)
def test_stablehlo_runs_where_there_is_no_s5c(options: dict[str, Any], tmp_path: Path) -> None:
    exported = made(options)
    stablehlo.write(exported, tmp_path)
    done = run(f"{sys.executable} {WITHOUT_S5C} run.py", tmp_path)
    assert done.returncode == 0 and "largest deviation" in done.stdout, done.stdout + done.stderr
    rows = 2 if exported.model.spec.pairs else 1  # another batch than that of the stored answers
    inputs = exported.inputs(9, rows)
    np.savez(tmp_path / "x.npz", inputs=inputs)
    assert run(f"{sys.executable} {WITHOUT_S5C} run.py x.npz y.npz", tmp_path).returncode == 0
    right = exported.model.apply(exported.weights, jnp.asarray(inputs), jnp.full(rows, 9), step_rescale=1.5)
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["answers"], np.asarray(right), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bits", "stored"), [(8, 7), (6, 6), (4, 4)])
def test_rounding_is_to_the_nearest_and_zero_stays(bits: int, stored: int, rng: np.random.Generator) -> None:
    matrix = np.concatenate([rng.normal(size=(5, 7)), np.zeros((1, 7))]).astype(np.float32)
    found: Matrix = rounded(matrix, bits)
    assert found.scale is not None
    assert (np.abs(found.dense() - matrix) <= found.scale[:, None] / 2 * (1 + 1e-6)).all() and not found.dense()[
        -1
    ].any()
    assert found.bytes == 6 * stored + 6 * 4


def test_poles_are_not_rounded_and_here_is_why() -> None:
    """Eight bits tell 127 radii apart: of the slow modes, at 0.99 and above, all become one, of a memory of forever."""
    exported = made({}, bits=8)
    found = plan(exported.model, exported.weights, bits=8).layers[0]
    assert found.a_re.dtype == np.float32 and isinstance(found.B, Matrix) and found.B.bits == 8
    radii = np.array([0.99, 0.997, 0.998, 0.999])
    coarse = np.round(radii * 127) / 127
    assert set(coarse[1:]) == {1.0}, "modes that remember 333, 500 and 1,000 steps are one, which forgets nothing"
    assert np.log(coarse[0]) / np.log(radii[0]) < 0.8, "and the one before them remembers a quarter longer"


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bidirectional"):
        c.write(made({"bidirectional": True}), tmp_path)
    with pytest.raises(UserError, match=r"two documents.*stablehlo"):
        plan(networks.network(networks.PAIRS), {})
    with pytest.raises(UserError, match="32, 8, 6, 4"):
        plan(made({}).model, made({}).weights, bits=5)
    exported = made({})
    with pytest.raises(UserError, match="begin with a letter"):
        c.write(Exported("8-bit", exported.model, exported.weights, FACTS), tmp_path)
    with pytest.raises(UserError, match=r"lengths=\[784\]"):
        stablehlo.write(Exported("x", exported.model, exported.weights, FACTS), tmp_path)
    assert not list(tmp_path.iterdir())


# ---- the command


@pytest.mark.slow
@needs_compiler
def test_the_command_replaces_an_export_and_nothing_else(tmp_path: Path) -> None:
    first = jobs.run("export", "checkpoint=zoo:digits_s5", "format=c", "out=there", "bits=4", folder=tmp_path)
    assert first.code == 0 and "make check" in first.err, first.err
    assert "passed" in run("make check", tmp_path / "there").stdout
    card = (tmp_path / "there/README.md").read_text()
    assert all(words in card for words in ("98.33 % of 360 test examples", "4 bits", "CC BY 4.0", "0 to 9"))
    again = jobs.run("export", "checkpoint=zoo:digits_s5", "format=safetensors", "out=there", folder=tmp_path)
    assert again.code == 0 and not (tmp_path / "there/model.c").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("my own")
    refused = jobs.run("export", "checkpoint=zoo:digits_s5", "format=c", "out=mine", folder=tmp_path)
    assert refused.code == 1 and "something else than an export" in refused.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "there"]
    read = s5c.load(tmp_path / "there")  # a checkpoint like any other
    assert read.parameters == 53_002 and "Accuracy" in (tmp_path / "there/README.md").read_text()
    assert run(f"{sys.executable} check.py", tmp_path / "there").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["format=d", "out=x"], ["'d'", "first: c"]),
        (["format=c", "out=x", "bits=5"], ["bits=5", "32, 8, 6, 4"]),
        (["format=stablehlo", "out=x", "bits=8"], ["bits=8", "c, onnx and safetensors"]),
        (["format=c", "out=x", "lengths=[9]"], ["lengths=", "any length"]),
        (["format=c", "out=x", "symbol=2x"], ["2x", "begin with a letter"]),
        (["format=stablehlo", "out=x"], ["lengths=[784]"]),
    ],
    ids=str,
)
def test_what_the_command_is_asked_is_checked(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = jobs.run("export", "checkpoint=zoo:digits_s5", *arguments, folder=tmp_path)
    assert done.code == 1 and all(word in done.err for word in words), done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_reduced_network_says_what_was_removed(tmp_path: Path) -> None:
    small = s5c.reduce(s5c.load("zoo:digits_s5"), "last", ratio=0.5)
    small.export(tmp_path / "out", "safetensors")
    card = (tmp_path / "out/README.md").read_text()
    assert "last at 0.5" in card.split("Removed")[1].splitlines()[0]
    assert "98.33" not in card and "Accuracy" not in card, "it was measured of the network before the reduction"
    small.evaluate(np.zeros((4, 64, 1)), np.zeros(4, int))
    small.export(tmp_path / "evaluated", "safetensors")
    assert "of 4 sequences given in Python" in (tmp_path / "evaluated/README.md").read_text()
    smaller = s5c.reduce(s5c.load(tmp_path / "evaluated"), "last", ratio=0.5)
    assert not {"evaluated", "metrics"} & set(smaller.facts)
