"""Weights of few bits: what is rounded, to what, how many bytes that takes, and that files hold the very network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jobs
import networks
import numpy as np
import pytest
from safetensors.numpy import load_file
from test_axes import composed, trained
from test_stages import job

import s5c
from s5c import axes, lookup
from s5c.config import task_job
from s5c.errors import UserError
from s5c.export.plan import plan
from s5c.model import family as families
from s5c.model import surgery
from s5c.model.classifier import Classifier, resized
from s5c.model.inputs import InputSpec
from s5c.model.products import products, with_products
from s5c.model.rounding import Matrix, rounded, unpacked, with_feedback
from s5c.pipeline.context import Context
from s5c.pipeline.line import run
from s5c.pipeline.packing import packed
from s5c.pipeline.parameters import bytes_after
from s5c.pipeline.rounded import on_data, to_nearest
from s5c.pipeline.row import as_found
from s5c.pipeline.search import Memory, in_bytes, largest_ratio
from s5c.pipeline.trained import load_task
from s5c.reduction.size import number_of_bytes
from s5c.reduction.stage import Ranking, cut
from s5c.reduction.target import Target
from s5c.units import Scale, Targets

FAMILIES = lookup.names(families)
NETWORKS: list[dict[str, Any]] = [
    *({"family": family} for family in FAMILIES),
    {"bidirectional": True, "spec": networks.TOKENS},
    {"family": "s4d", "bidirectional": True},
    {"norm": "layer", "activation": "full_glu", "discretisation": "bilinear"},
    {"prenorm": False, "activation": "lqo"},
    {"spec": networks.PAIRS},
    {"spec": InputSpec(2, 2, targets=Targets((1.0, 2.0), (2.0, 0.5)), scale=Scale((1.0, 0.0), (2.0, 1.0)))},
]
every_network = pytest.mark.parametrize("options", NETWORKS, ids=str)


def made(options: dict[str, Any]) -> tuple[Classifier, dict[str, Any]]:
    model = networks.network(**options)
    return model, networks.weights_of(model, np.random.default_rng(1))


def same(one: Any, other: Any, **tolerance: float) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


# ---- products


@pytest.mark.few(3)
@every_network
def test_a_network_is_its_products_and_the_rest(options: dict[str, Any]) -> None:
    model, weights = made(options)
    found = products(model, weights, 1.5)
    again, held = with_products(model, weights, found, 1.5)
    assert again == model
    same(products(model, held, 1.5), found, rtol=1e-5, atol=1e-6)
    poles = [
        [np.asarray(system.Lambda * system.Delta)
         for system in surgery.systems(one["params"], model.config)]
        for one in (weights, held)
    ]  # fmt: skip
    same(*poles, rtol=1e-6)
    model, half = with_products(model, weights, {name: one / 2 for name, one in found.items()}, 1.5)
    for name, one in products(model, half, 1.5).items():
        np.testing.assert_allclose(one, found[name] / 2, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.few(4)
@every_network
@pytest.mark.parametrize("bits", [8, 6, 4])
def test_rounding_again_changes_nothing(options: dict[str, Any], bits: int) -> None:
    model, weights = made(options)
    held, once = to_nearest(model, weights, bits, step_rescale=1.5)
    for name, one in products(held, once, 1.5).items():
        before, again = rounded(products(model, weights, 1.5)[name], bits), rounded(one, bits)
        np.testing.assert_allclose(again.dense(), before.dense(), rtol=1e-5, atol=1e-7, err_msg=name)
    same(to_nearest(held, once, bits, step_rescale=1.5)[1], once, rtol=2e-6, atol=1e-5)


# ---- integers


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_integers_are_read_back_from_a_stream_of_bits(bits: int, rng: np.random.Generator) -> None:
    most = 2 ** (bits - 1) - 1
    for rows, columns in ((1, 1), (3, 5), (4, 8), (2, 13)):
        values = rng.integers(-most, most + 1, (rows, columns)).astype(np.int8)
        stored = Matrix(values, np.ones(rows, np.float32), bits).packed()
        assert stored.shape == (rows, -(-columns * bits // 8))
        assert Matrix(values, np.ones(rows, np.float32), bits).bytes == stored.nbytes + 4 * rows
        np.testing.assert_array_equal(unpacked(stored, columns, bits), values)


def test_a_row_of_one_weight_is_exact() -> None:
    np.testing.assert_array_equal(rounded(np.array([[0.3], [-2.0]]), 4).dense(), np.float32([[0.3], [-2.0]]))


def test_feedback_makes_up_for_errors_as_far_as_inputs_are_alike(rng: np.random.Generator) -> None:
    lost = []
    for _ in range(20):
        matrix = rng.normal(size=(6, 12))
        signal = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 12)) + 0.1 * rng.normal(size=(200, 12))
        S = signal.T @ signal
        errors = [matrix - one.dense() for one in (rounded(matrix, 4), with_feedback(matrix, S, 4))]
        lost.append([np.trace(error @ S @ error.T) for error in errors])
    nearest, fed_back = np.array(lost).T
    assert (fed_back < nearest).all() and (fed_back / nearest).mean() < 0.2
    alone = with_feedback(matrix, np.eye(12), 4)
    np.testing.assert_array_equal(alone.values, rounded(matrix, 4).values)


def test_feedback_finds_what_no_other_integers_do_better(rng: np.random.Generator) -> None:
    """Against all 49 x 49 neighbours of the matrix, for rows of two weights whose inputs are alike."""
    matrix = rng.normal(size=(1, 2))
    S = np.array([[1.0, 0.9], [0.9, 1.0]])
    found = with_feedback(matrix, S, 4)
    assert found.scale is not None
    grid = np.arange(-7, 8)
    tried = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2) * found.scale[0]
    costs = np.einsum("ni,ij,nj->n", matrix - tried, S, matrix - tried)
    error = matrix - found.dense()
    assert (error @ S @ error.T).item() <= 3 * costs.min() + 1e-12


# ---- bytes


@pytest.mark.few(3)
@every_network
def test_bytes_at_every_cut_are_those_of_the_network(options: dict[str, Any]) -> None:
    model, weights = made(options)
    rng, found = np.random.default_rng(2), job("last")
    shapes = [(model.config.d_model, p) if model.config.per_channel else (p,) for p in model.state_dims]
    slots = sum(np.prod(shape) for shape in shapes)
    order = rng.permutation(int(slots))
    ranking = Ranking([np.zeros(shape) for shape in shapes], [np.zeros(s) for s in shapes], order)
    for bits in (32, 6):
        told = bytes_after(found, weights["params"], model.config, bits, tokens=model.spec.tokens).at_every_cut(ranking)
        for kept in {int(slots) - 1, int(slots) // 2 + 1}:
            keep = cut(ranking, kept).keep
            if any(not mask.any() for mask in keep):
                continue
            params, config = surgery.take(weights["params"], keep, model.config)
            small = resized(model.clone(config=config), surgery.state_dims(params, config))
            stored = packed(*to_nearest(small, {**weights, "params": params}, bits), bits, 1.0)
            assert sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(stored)) == told[kept], (bits, kept)


@pytest.mark.parametrize(
    ("given", "bytes_"), [("32k", 32000), ("32Ki", 32768), ("1.5M", 1.5e6), (24000, 24000), ("12 kB", 12000)]
)
def test_bytes_are_written_as_people_write_them(given: Any, bytes_: float) -> None:
    assert number_of_bytes(given) == bytes_
    (target,) = job("last", bytes=given).targets
    assert target == Target("bytes", bytes_) and target.label == f"bytes-{bytes_:g}"


# ---- the axis


def reduced(preset: str, target: Target, **settings: Any) -> Any:
    network = run(Context(trained(), job(preset, **settings), Path("nowhere")), target)
    inputs = jnp.asarray(trained().splits.test.inputs)
    return network, np.asarray(network.model.apply(network.weights, inputs))


@pytest.mark.parametrize(
    "preset", ["calibrated", "fresh", *(pytest.param(name, marks=pytest.mark.slow) for name in ("last", "bt"))]
)
def test_every_kind_of_method_ends_in_few_bits(preset: str) -> None:
    settings = {} if preset != "fresh" else {"finetune": {**composed("fresh", {})["finetune"], "epochs": 0}}
    network, _ = reduced(preset, Target("ratio", 0.5), bits=6, **settings)
    for one in products(network.model, network.weights).values():
        np.testing.assert_allclose(rounded(one, 6).dense(), one, rtol=1e-4, atol=1e-6)
    assert network.bits == 6


def test_errors_are_those_of_the_rounded_layers() -> None:
    plain, short = (reduced("last", Target("ratio", 0.5), **settings)[0] for settings in ({}, {"bits": 4}))
    assert all(a.h2 != b.h2 for a, b in zip(plain.errors, short.errors, strict=True))
    full = reduced("last", Target("ratio", 0.0), bits=4)[0]
    assert all(0 < error.h2 < 0.5 for error in full.errors), full.errors


@pytest.mark.slow
def test_a_fit_on_data_keeps_what_the_nearest_numbers_lose() -> None:
    data = load_task(task_job({**jobs.compose("train", "task=digits")["task"]}), "validation")[1]
    model, x = s5c.load("zoo:digits_s5"), data.train.read(np.arange(256))
    lost = {}
    for way, given in (("nearest", {}), ("calibrated", {"data": x})):
        small = s5c.reduce(model, "last", ratio=0.0, bits=4, bits_fit=way, **given)
        lost[way] = (
            1 - small.evaluate(data.selection.read(np.arange(len(data.selection))), data.selection.labels).accuracy
        )
    assert lost["calibrated"] < 0.03 < lost["nearest"], lost


@pytest.mark.parametrize(
    "options", [NETWORKS[-1], *(pytest.param(one, marks=pytest.mark.slow) for one in NETWORKS[:-1])], ids=str
)
def test_a_fit_on_data_takes_every_network(options: dict[str, Any], rng: np.random.Generator) -> None:
    model, weights = made(options)
    inputs, lengths = networks.batch_for(model.spec, rng)
    rows = len(inputs) // (2 if model.spec.pairs else 1)
    valid = None if lengths is None else np.asarray(lengths)
    batch = dataclasses.make_dataclass("Batch", ["inputs", "lengths", "weights"])(
        np.asarray(inputs), valid, np.ones(rows, np.float32)
    )
    held, found = on_data(model, weights, 4, lambda: [batch])
    for name, one in products(held, found).items():
        np.testing.assert_allclose(rounded(one, 4).dense(), one, rtol=1e-3, atol=1e-5, err_msg=name)
    said = np.asarray(held.apply(found, inputs, lengths))
    assert np.isfinite(said).all()


def test_bits_are_found_that_answer_best_within_the_bytes(caplog: pytest.LogCaptureFixture) -> None:
    context = Context(trained(), job("last", bytes=6000), Path("nowhere"))
    best, tried = {32: 0.5, 8: 0.75, 6: 0.75, 4: 0.25}, []

    def validate(model: Classifier, weights: Any) -> float:
        on_grid = [bits for bits in (4, 6, 8) if packed(model, weights, bits, 1.0).keys() != weights.keys()] or [32]
        tried.append(on_grid[0])
        return best[on_grid[0]]

    network = in_bytes(context, Target("bytes", 6000.0), validate)
    assert (sorted(tried) == [4, 6, 8] and "32 bits" in caplog.text) or sorted(tried) == [4, 6, 8, 32]
    assert network.bits == 8, "of equals the one with more bits"
    assert axes.name(as_found(context.job, network)) == "last +8 bits (by bytes)", "and its name says so"
    stored = packed(network.model, network.weights, 8, 1.0)
    assert sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(stored)) <= 6000


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 5}, "reduction.bits=5: weights have 32, 8, 6, 4 bits. Give one of these, or null"),
        (
            {"bits_fit": "calibrated"},
            "reduction.bits_fit=calibrated changes nothing: reduction.bits=null rounds nothing",
        ),
        ({"bits": 8, "bits_fit": "best"}, "Unknown value for reduction.bits_fit 'best'"),
        ({"bits": 32}, "reduction.bits=32 changes nothing: weights are float32 anyway"),
        ({"bytes": []}, "a list such as reduction.bytes="),
        ({"bytes": "many"}, "write a number of bytes, such as 32000, 32k or 32Ki"),
        ({"bytes": 0}, "reduction.bytes=0: give a positive number"),
        ({"bytes": "1k", "ratio": 0.5}, "reduction.bytes=1k and reduction.ratio=0.5 are both set"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_message(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=".*".join(words.split("="))):
        job("last", **settings)


@pytest.mark.slow
def test_what_a_fit_adds_counts_and_the_limit_holds() -> None:
    for settings in ({"bits": 4}, {"bits": 4, "bits_fit": "calibrated"}):
        network = reduced("last", Target("bytes", 1800.0), **settings)[0]
        stored = packed(network.model, network.weights, 4, 1.0)
        assert 1600 < sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(stored)) <= 1800


def test_a_limit_of_the_loss_counts_what_rounding_costs(tmp_path: Path) -> None:
    found, values = job("last", bits=4, max_drop=1.0), iter([0.9, 0.5])
    with pytest.raises(UserError, match="weights of 4 bits alone cost 40 points"):
        largest_ratio(trained(), found, tmp_path, lambda *_: next(values), Memory(tmp_path / "s.json", ""))


def test_bytes_that_no_network_fits_into_are_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be reached with weights of 4 bits: the smallest network .* bytes"):
        reduced("last", Target("bytes", 100.0), bits=4)


# ---- files

SAMPLES = np.random.default_rng(0).uniform(size=(2, 64, 1)).astype(np.float32)


def test_a_file_holds_integers_and_gives_the_network_back(tmp_path: Path) -> None:
    """And an export of as many bits is that network."""
    model = s5c.load("zoo:digits_s5")
    small = s5c.reduce(model, "last", ratio=0.5, bits=4)
    stepped = plan(small.network, small.weights, bits=4).run(SAMPLES)[:, -1]
    np.testing.assert_allclose(stepped, small.predict(SAMPLES), rtol=1e-3, atol=1e-4)
    small.export(tmp_path / "c", "c")
    assert "4 bits" in (tmp_path / "c/README.md").read_text()
    assert small.facts["stored"] == {"bits": 4, "step_rescale": 1.0} and "+4 bits" in small.name
    s5c.save(small, tmp_path / "small")
    arrays = load_file(tmp_path / "small/weights.safetensors")
    assert arrays["products/layer0.out2/values"].dtype == np.uint8
    size = (tmp_path / "small/weights.safetensors").stat().st_size
    s5c.save(s5c.reduce(model, "last", ratio=0.5), tmp_path / "float")
    assert size < 0.26 * (tmp_path / "float/weights.safetensors").stat().st_size
    again = s5c.load(tmp_path / "small")
    same(again.weights, jax.tree.map(np.asarray, small.weights), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(again.predict(SAMPLES), small.predict(SAMPLES), rtol=1e-4, atol=1e-5)
    # Weights that were changed by hand since are not of four bits, and are kept as they are.
    small.weights["params"]["decoder"]["kernel"] = small.weights["params"]["decoder"]["kernel"] + 0.01
    s5c.save(small, tmp_path / "changed")
    same(s5c.load(tmp_path / "changed").weights, jax.tree.map(np.asarray, small.weights), rtol=0, atol=0)
