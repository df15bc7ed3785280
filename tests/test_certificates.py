"""Errors and bounds of layers as they are stored, against a dense sweep and against the layer that runs."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stored_layers import difference, drawn, joined, read, stable, swept_norms, transfer
from systems import complex_normal, random_system

from s5c.model.config import ModelConfig, load_family
from s5c.reduction.error import layer_errors
from s5c.reduction.layer import Layer
from s5c.reduction.method import bt
from s5c.reduction.truncation import realise, truncate
from s5c.ssm import norms
from s5c.ssm.modal import ModalSystem, from_ssm
from s5c.ssm.system import DiagonalSSM

P, CHANNELS, SYSTEMS = 6, 4, 100

FAMILIES: dict[str, dict[str, Any]] = {
    "s5 of one input": {"family": "s5", "d_model": 1, "blocks": 1},
    "s5": {"family": "s5", "d_model": 2, "blocks": 1},
    "s5 bilinear": {"family": "s5", "d_model": 2, "blocks": 1, "discretisation": "bilinear"},
    "s4d": {"family": "s4d", "d_model": CHANNELS},
    "s4d bilinear": {"family": "s4d", "d_model": CHANNELS, "discretisation": "bilinear"},
    "dss": {"family": "dss", "d_model": CHANNELS},
    "dss softmax": {"family": "dss", "d_model": CHANNELS, "variant": "softmax", "length": 64},
}


def config_of(name: str, bidirectional: bool) -> ModelConfig:
    options = dict(FAMILIES[name])
    family = options.pop("family")
    size = P if family == "dss" else 2 * P
    return load_family(family).Config(n_layers=1, state_size=size, bidirectional=bidirectional, **options)


def double(params: Any) -> dict[str, jax.Array]:
    return {name: jnp.asarray(np.asarray(value), jnp.float64) for name, value in params.items()}


class Cut(NamedTuple):
    """Layers before and after a reduction, as parameters and as systems.

    Attributes:
        layers: the full layers.
        reduced: what the method returned.
        stored: the reduced layers as they are read back from their parameters.
        true: H-infinity errors of the stored layers by a dense sweep; of a layer with channels the largest. Unstable
            modes are left out.
    """

    layers: list[Layer]
    reduced: list[Any]
    stored: list[DiagonalSSM]
    true: np.ndarray

    @property
    def reported(self) -> np.ndarray:
        found = layer_errors(self.layers, self.stored, hinf=[True] * len(self.layers))
        return np.array([error.hinf for error in found])

    @property
    def bounds(self) -> np.ndarray:
        return np.array([np.nan if r.bound is None else r.bound for r in self.reduced])


def cut(config: ModelConfig, params: list[Any], orders: list[np.ndarray], **options: Any) -> Cut:
    """Reduces layers by `bt` and stores them in their family's parameters."""
    family = load_family(config.family)
    with jax.enable_x64(True):
        layers = [Layer(family.to_system(double(p), config)) for p in params]
        reduced = bt.Method(**options).fit(layers, 0).reduce(orders)
        configs = [family.accommodating(config, [r.system]) for r in reduced]
        written = [family.from_system(r.system, c) for r, c in zip(reduced, configs, strict=True)]
        stored = [family.to_system(double(p), c) for p, c in zip(written, configs, strict=True)]
    assert all(value.dtype == np.float32 for value in written[0].values())
    full = stable(joined([read(p, config) for p in params]))
    small = stable(joined([read(p, c) for p, c in zip(written, configs, strict=True)]))
    true, _ = swept_norms(difference(full, small))
    return Cut(layers, reduced, stored, true.reshape(len(params), -1).max(1))


@cache
def cuts(name: str, bidirectional: bool, variant: str, slowest: float) -> Cut:
    """Returns a hundred random systems, cut at random orders."""
    config = config_of(name, bidirectional)
    rng = np.random.default_rng(0)
    count = SYSTEMS if config.family == "s5" else SYSTEMS // CHANNELS
    orders = [np.asarray(rng.integers(1, P, () if config.family == "s5" else CHANNELS)) for _ in range(count)]
    return cut(config, [drawn(config, rng, P, slowest) for _ in range(count)], orders, variant=variant)


one_and_two = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "two directions"])


def every_combination(quick: set[tuple[str, bool, str]]) -> pytest.MarkDecorator:
    """Runs a test with every family, direction and variant; all but some that cover each pair of these are slow."""
    found = itertools.product(FAMILIES, (False, True), ("truncation", "perturbation"))
    return pytest.mark.parametrize(
        ("name", "bidirectional", "variant"),
        [
            pytest.param(*each, marks=[] if each in quick else [pytest.mark.slow], id=f"{name}-{ways}-{variant}")
            for each in found
            for name, ways, variant in [(each[0], "two directions" if each[1] else "one direction", each[2])]
        ],
    )


PAIRS = {
    ("s5", False, "truncation"),
    ("s5", True, "perturbation"),
    ("s4d", False, "perturbation"),
    ("s4d", True, "truncation"),
}


# ---- the contract


@pytest.mark.few(1)
@every_combination(PAIRS | {("dss", True, "truncation")})
def test_no_error_exceeds_its_bound_and_what_is_reported_is_true(name: str, bidirectional: bool, variant: str) -> None:
    found = cuts(name, bidirectional, variant, 1e-5)
    np.testing.assert_allclose(found.reported, found.true, rtol=1e-6)
    assert (found.true <= found.bounds).all()
    assert np.median(found.true / found.bounds) > 0.1  # a bound of anything would hold


@pytest.mark.few(1)
@every_combination(PAIRS)
def test_next_to_the_circle_a_bound_holds_what_rounding_does(name: str, bidirectional: bool, variant: str) -> None:
    """Single precision turns a pole by more than its distance from the circle."""
    found = cuts(name, bidirectional, variant, 1e-13)
    assert (found.true <= found.bounds).all()
    assert np.median(found.true / found.bounds) > 0.01


def test_the_margin_is_small_where_rounding_is(rng: np.random.Generator) -> None:
    """Of one direction the bound is the theorem's to 1%, with dampings of 1e-2 and more, and mostly to 1e-4."""
    config = config_of("s5 of one input", False)
    params = [drawn(config, rng, P, 1e-2) for _ in range(20)]
    found = cut(config, params, [np.asarray(3)] * 20)
    sigma = np.array(bt.Method().fit(found.layers, 0).hankel_singular_values)
    theorem = 2 * np.array([[s[n:].sum() for n in (4, 5, 6)] for s in sigma])  # real poles take a slot each
    excess = found.bounds[:, None] / theorem - 1
    nearest = np.abs(excess).min(1)
    assert nearest.max() < 1e-2 and np.median(nearest) < 1e-4 and (excess[:, -1] > 0).all()


# ---- two directions


def example() -> Layer:
    """Poles .9 and .5, C = C_backward = (1, 1)."""
    one = jnp.ones((2, 1), complex)
    return Layer(DiagonalSSM(jnp.log(jnp.array([0.9, 0.5])) + 0j, one, one.T, jnp.zeros(1), jnp.ones(2), one.T))


@pytest.mark.slow
def test_both_directions_add_up() -> None:
    """By hand: the stacked error is 2.148 and its bound 2.616; at a constant both directions are equal and add up."""
    with jax.enable_x64(True):
        layer = example()
        (reduced,) = bt.Method().fit([layer], 0).reduce([np.asarray(1)])
        stack = dataclasses.replace(layer.system, C_backward=None)  # G_b = G_f: the stack has sqrt(2) times the gain
        alone = dataclasses.replace(reduced.system, C_backward=None)
    (both,) = layer_errors([layer], [reduced.system], hinf=[True])
    (single,) = layer_errors([Layer(stack)], [alone], hinf=[True])
    assert both.hinf == pytest.approx(3.0378, abs=1e-4)
    assert single.hinf * np.sqrt(2) == pytest.approx(2.1480, abs=1e-4)
    assert both.hinf == pytest.approx(2 * single.hinf, rel=1e-9)
    sigma = bt.Method().fit([layer], 0).hankel_singular_values[0]
    assert 2 * sigma[1:].sum() == pytest.approx(2.6162, abs=1e-4)
    assert reduced.bound == pytest.approx(np.sqrt(2) * 2.6162, rel=1e-4)


@pytest.mark.slow
def test_900_cuts_keep_their_bound(rng: np.random.Generator) -> None:
    """Bidirectional layers of one input, of which the bound of the stack fails one in five."""
    config = config_of("s5 of one input", True)
    params = [drawn(config, rng, P, 1e-2) for _ in range(180)]
    broken = 0
    for order in (1, 2, 3, 4, 5):
        found = cut(config, params, [np.asarray(order)] * 180)
        assert (found.true <= found.bounds).all()
        broken += int((found.true > found.bounds / np.sqrt(2)).sum())
    assert broken > 20


def test_no_smaller_factors_do() -> None:
    """The norm of the sum against that of the stack: twice for two inputs, where v and conj(v) may be orthogonal."""
    a = 0.999 * np.exp(1j)
    v, u = np.array([1, 1j]) / np.sqrt(2), np.array([1.0, 0.0])
    forward = ModalSystem(np.log(np.array([a])), v.conj()[None], u[:, None] + 0j, np.zeros((2, 2)))
    # G_b = conj(G_f) at the peak, where the pole's own term is all there is.
    for inputs, factor in ((v, 2), (np.array([1.0]), np.sqrt(2))):
        m = len(inputs)
        log_a, B = forward.log_a, inputs.conj()[None]
        if m == 1:
            C = np.ones((2, 1), complex)
            stack = ModalSystem(np.array([np.log(0.999) + 0j]), B, C, np.zeros((2, 1)))
        else:
            # Two slots with one pole: one feeds forward, the other, with B = v^T, backward.
            stack = ModalSystem(
                np.repeat(log_a, 2),
                np.concatenate([B, B.conj()]),
                np.block([[u[:, None], 0 * u[:, None]], [0 * u[:, None], u[:, None]]]),
                np.zeros((4, 2)),
            )
        with jax.enable_x64(True):
            stack = jax.tree.map(jnp.asarray, stack)
            together = jax.jit(partial(norms.hinf_norm, bidirectional=True))(stack).gain
            apart = jax.jit(norms.hinf_norm)(stack).gain
        assert together / apart == pytest.approx(factor, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "bidirectional"),
    [
        pytest.param(name, both, marks=[] if (name == "s4d") != both else [pytest.mark.slow])
        for both in (False, True)
        for name in ("s5", "s4d", "dss")
    ],
)
def test_the_layer_that_runs_answers_to_the_worst_tone_as_reported(
    name: str, bidirectional: bool, rng: np.random.Generator
) -> None:
    """Full and reduced layer, float32 modules, on the tone that their difference amplifies most: settled, mid-way."""
    config = config_of(name, bidirectional)
    family, length = load_family(config.family), 2400
    params = drawn(config, rng, P, 0.02)
    order = np.asarray(1 if config.family == "s5" else np.full(CHANNELS, 1))
    found = cut(config, [params], [order])
    small = family.accommodating(config, [found.reduced[0].system])
    with jax.enable_x64(True):
        written = family.from_system(found.reduced[0].system, small)
    error = difference(read(params, config), read(written, small))
    reached, angles = swept_norms(error)
    worst, steps = reached.argmax(), np.arange(length)
    v = np.eye(config.d_model)[worst] + 0j
    if config.family == "s5":
        v = np.linalg.svd(transfer(error, angles[None])[0, 0])[2][0].conj()
    u = (v * np.exp(1j * angles[worst] * steps)[:, None]).real[None]
    y, size = np.zeros((length, config.d_model)), 0.0
    for module, weights, sign in ((config, params, 1), (small, written, -1)):
        states = weights["Lambda_im"].shape[-1]
        single = {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
        layer = jax.jit(family.Layer(module, states).apply)
        one = np.asarray(layer({"params": single}, jnp.asarray(u, jnp.float32)))[0]
        y, size = y + sign * one, max(size, float(np.abs(one).max()))
    middle = slice(length // 3, -length // 3)
    answer = transfer(error, np.full((len(angles), 1), angles[worst]))[:, 0]
    gain = answer[0] @ v if config.family == "s5" else answer[:, 0, 0] * v
    assert np.linalg.norm(gain) == pytest.approx(found.reported[0], rel=1e-6)
    assert found.reported[0] > 1e-2 * size
    expected = (gain * np.exp(1j * angles[worst] * steps[middle])[:, None]).real
    np.testing.assert_allclose(y[middle], expected, atol=1e-5 * size)


# ---- what does not fit into a layer


@one_and_two
def test_the_bound_counts_what_the_diagonal_leaves_out(bidirectional: bool) -> None:
    """Singular perturbation of a layer of several inputs has a dense D; what is cut off it counts in full."""
    config, rng = config_of("s5", bidirectional), np.random.default_rng(2)
    found = cut(config, [drawn(config, rng, P, 1e-2) for _ in range(40)], [np.asarray(3)] * 40, variant="perturbation")
    broken = 0
    for layer, error, bound in zip(found.layers, found.true, found.bounds, strict=True):
        with jax.enable_x64(True):
            modal = jax.tree.map(np.asarray, from_ssm(layer.system))
        dense = truncate(realise(modal, variant="perturbation"), 3)
        D = dense.system.D.reshape(-1, 2, 2).sum(0)
        theorem = float(dense.bound) * (2 if bidirectional else 1)
        assert error <= bound
        assert bound == pytest.approx(theorem + np.linalg.norm(D - np.diag(np.diag(D)), 2), rel=1e-3)
        broken += error > theorem
    assert broken > 0


@pytest.mark.parametrize("variant", ["truncation", "perturbation"])
@one_and_two
def test_a_channel_without_states_has_a_bound_too(variant: str, bidirectional: bool) -> None:
    """All that is left is D: the gain for a constant after singular perturbation."""
    config, rng = config_of("s4d", bidirectional), np.random.default_rng(1)
    params = [drawn(config, rng, P, 1e-3) for _ in range(10)]
    found = cut(config, params, [np.array([0, 0, 0, 1])] * 10, variant=variant)
    assert (found.true <= found.bounds).all()
    assert np.median(found.true / found.bounds) > 0.1
    np.testing.assert_allclose(found.reported, found.true, rtol=1e-6)
    for layer, stored in zip(found.layers, found.stored, strict=True):
        assert not np.asarray(stored.C)[:3].any()
        settled = variant == "perturbation"
        assert (np.asarray(stored.D)[:3] == np.asarray(layer.system.D)[:3]).all() != settled


@one_and_two
def test_unstable_modes_stay_bit_for_bit_and_cancel(bidirectional: bool, rng: np.random.Generator) -> None:
    """Else rounding would leave a difference that grows without end, and no error or bound to speak of."""
    config = config_of("s5", bidirectional)
    params = drawn(config, rng, P, 1e-3)
    params["Lambda_re"][[1, 4]] = [0, 0.02]
    found = cut(config, [params], [np.asarray(4)])
    stored, full = found.stored[0], found.layers[0].system
    for name, axis in (("Lambda", 0), ("Delta", 0), ("B", 0), ("C", 1), ("C_backward", 1)):
        if getattr(full, name) is not None:
            theirs = np.take(np.asarray(getattr(full, name)), [1, 4], axis)
            np.testing.assert_array_equal(np.take(np.asarray(getattr(stored, name)), [2, 3], axis), theirs)
    rest = {k: np.delete(v, [1, 4], 1 if k in ("C", "C1", "C2") else 0) for k, v in params.items() if k != "D"}
    alone = cut(config, [{**rest, "D": params["D"]}], [np.asarray(2)])
    assert found.reported[0] == pytest.approx(alone.true[0], rel=1e-5)
    assert found.reported[0] <= found.bounds[0]
    with jax.enable_x64(True):
        moved = dataclasses.replace(stored, B=stored.B.at[3, 0].multiply(1 + 1e-12))
    assert np.isnan(layer_errors(found.layers, [moved], hinf=[True])[0].hinf)


# ---- norms


def test_ceilings_are_above_the_norm_and_close(rng: np.random.Generator) -> None:
    for bidirectional in (False, True):
        config = config_of("s5", bidirectional)
        for slowest in (1e-2, 1e-6, 1e-12):
            params = [drawn(config, rng, P, slowest) for _ in range(30)]
            true, _ = swept_norms(joined([read(p, config) for p in params]))
            with jax.enable_x64(True):
                modal = [from_ssm(load_family("s5").to_system(double(p), config)) for p in params]
                many = jax.tree.map(lambda *x: jnp.stack(x), *modal)
                ceiling = partial(norms.hinf_ceiling, bidirectional=bidirectional)
                found = np.asarray(jax.jit(lambda s, f=ceiling: jax.lax.map(f, s))(many))
            assert (found >= true * (1 - 1e-9 * (slowest < 1e-9))).all() and (found < 1.03 * true).all()


def test_samples_leave_no_room_for_a_peak(rng: np.random.Generator) -> None:
    """The extremal function cos(tau) itself: it reaches 1 midway between samples at worst, no other function more."""
    for slowest in (0.1, 1e-4, 1e-9):
        log_a = -np.exp(rng.uniform(np.log(slowest), 0, 7)) + 1j * rng.uniform(-np.pi, np.pi, 7)
        with jax.enable_x64(True):
            angles, step = jax.jit(norms.samples, static_argnums=1)(jnp.asarray(log_a), 16)
        poles = np.r_[log_a, log_a.conj()]

        def phase(w: np.ndarray, poles: np.ndarray = poles) -> np.ndarray:
            x = w[:, None] - poles.imag
            return np.sum(x - 2 * np.angle(-np.expm1(poles.real - 1j * x)) * -1, axis=1)

        angles = np.asarray(angles)
        assert angles[0] == 0 and angles[-1] == np.pi and (np.diff(angles) >= 0).all()
        rises = np.diff(np.unwrap(phase(angles)))
        assert float(step) == pytest.approx(rises.max(), rel=1e-6) and step < 1
        fine = (angles[:-1, None] + np.diff(angles)[:, None] * np.linspace(0, 1, 33)).ravel()
        for shift in rng.uniform(0, 2 * np.pi, 5):
            sampled = np.abs(np.cos(phase(angles) + shift)).max()
            assert np.abs(np.cos(phase(fine) + shift)).max() <= sampled / np.cos(float(step) / 2) + 1e-12


def test_a_ceiling_next_to_and_on_the_circle() -> None:
    """Where no sample can be near enough, the sum of the gains bounds; on the circle nothing does."""
    hinf_ceiling = jax.jit(norms.hinf_ceiling)  # step by step it would compile every operation
    with jax.enable_x64(True):
        one = jnp.ones((1, 1), complex)
        for decay, expected in ((1e-18, 2 / 1e-18), (0.0, np.inf)):
            system = ModalSystem(jnp.array([-decay + 1j]), one, one, jnp.zeros((1, 1)))
            ceiling = float(hinf_ceiling(system))
            assert ceiling == np.inf if expected == np.inf else expected / 2 <= ceiling <= 1.001 * expected
        assert float(hinf_ceiling(system._replace(B=0 * one))) == 0


# ---- slow modes keep their digits


def test_the_gain_of_a_slow_mode_in_double_precision(rng: np.random.Generator) -> None:
    """B_bar = (exp(z) - 1) / Lambda B: by the published quotient four digits would be left of it at |z| = 1e-12."""
    system = random_system(rng, 3, 2)
    with jax.enable_x64(True):
        slow = dataclasses.replace(system, Delta=system.Delta * 1e-12)
        z = np.asarray(slow.Lambda * slow.Delta)
        exact = np.asarray(slow.Delta)[:, None] * np.asarray(slow.B) * (1 + z / 2)[:, None]
        np.testing.assert_allclose(slow.discretise()[1], exact, rtol=1e-14)


def test_softmax_outputs_are_normalised_by_the_poles_that_are_stored(rng: np.random.Generator) -> None:
    """A thousand taps turn e^{L z} a thousand times as far as rounding turns z."""
    config = load_family("dss").Config(
        n_layers=1, d_model=CHANNELS, state_size=P, variant="softmax", length=4096, shared_poles=False
    )
    family = load_family("dss")
    with jax.enable_x64(True):
        Lambda = -np.exp(rng.uniform(-4, -1, (CHANNELS, P))) + 1j * rng.uniform(100, 300, (CHANNELS, P))
        system = DiagonalSSM(
            jnp.asarray(Lambda), jnp.ones((CHANNELS, P, 1), complex), jnp.asarray(complex_normal(rng, CHANNELS, 1, P)),
            jnp.zeros((CHANNELS, 1)), jnp.full((CHANNELS, P), 0.01),
        )  # fmt: skip
        back = family.to_system(double(family.from_system(system, config)), config)
    np.testing.assert_allclose(back.C * back.B.swapaxes(1, 2), system.C, rtol=1e-5)
