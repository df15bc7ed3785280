"""Layers at the end of what numbers can be, through every method: poles on the circle, steps of 0, silence, NaN."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reductions import MASKINGS, PROJECTIONS, SELECTIONS, TRAITS, VARIANTS, treats_unstable, with_arrays
from stored_layers import Stored, difference, discretised, stable, swept_norms
from systems import complex_normal

from s5c.errors import UserError
from s5c.reduction import stage
from s5c.reduction.contract import Fitted, Fresh, Projection, load_allocation
from s5c.reduction.gate import Gate
from s5c.reduction.layer import Layer
from s5c.reduction.moments import Moments, real_states
from s5c.ssm.system import DiagonalSSM, stack

P, H, STEPS = 4, 3, 64
DECAY = -0.5 + 1j * np.arange(1, P + 1)


def layer_of(Lambda: Any = DECAY, *, Delta: float = 0.01, discretisation: str = "zoh", **arrays: Any) -> DiagonalSSM:
    rng, p = np.random.default_rng(1), len(Lambda)
    drawn = [np.asarray(Lambda, complex), complex_normal(rng, p, H), complex_normal(rng, H, p), rng.normal(size=H)]
    with jax.enable_x64(True):
        system = DiagonalSSM(*map(jnp.asarray, [*drawn, np.full(p, Delta)]), discretisation=discretisation)
    return with_arrays(system, **arrays)


RNG = np.random.default_rng(7)
FINITE = {
    "slow steps": layer_of(Delta=1e-12),
    "fast steps": layer_of(Delta=1e4),
    "no input": layer_of(B=np.zeros((P, H), complex)),
    "no output": layer_of(C=np.zeros((H, P), complex)),
    "four times the same mode": layer_of([-0.5 + 3j] * P, B=np.ones((P, H), complex), C=np.ones((H, P), complex)),
    "next to nothing": layer_of(B=1e-200 * complex_normal(RNG, P, H), C=1e-200 * complex_normal(RNG, H, P)),
    "very loud": layer_of(B=1e34 * complex_normal(RNG, P, H), C=1e34 * complex_normal(RNG, H, P)),
    "fast steps, bilinear": layer_of(Delta=1e4, discretisation="bilinear"),
    "a bilinear pole at 0": layer_of([-200.0, *DECAY[1:]], discretisation="bilinear"),
}
UNSTABLE = {
    "one outside": (layer_of([0.5 + 1j, *DECAY[1:]]), 1),
    "all outside": (layer_of(np.arange(0.1, 0.5, 0.1) + 1j), P),
    "an integrator": (layer_of([0, *DECAY[1:]]), 1),
    "an oscillator": (layer_of([2j, *DECAY[1:]]), 1),
    "oscillators whose moduli round to both sides of 1": (layer_of([1j, 2j, 3j, DECAY[0]]), 3),
    "a bilinear oscillator": (layer_of([2j, *DECAY[1:]], discretisation="bilinear"), 1),
}
WRONG = {
    "NaN": layer_of([DECAY[0], np.nan, *DECAY[2:]]),
    "infinite": layer_of([DECAY[0], -np.inf, *DECAY[2:]]),
    "beyond single precision": layer_of(B=1e160 * complex_normal(RNG, P, H), C=1e160 * complex_normal(RNG, H, P)),
    "an infinite output": layer_of(C=np.full((H, P), np.inf, complex)),
}
STILL = {"a step of 0": layer_of(Delta=0.0), "a step that underflows": layer_of(Delta=1e-320)}

every_method = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if TRAITS[n].searches else n
        for n in VARIANTS
        if n in SELECTIONS | PROJECTIONS
    ],
)


SCORING = [
    name
    for name in SELECTIONS
    if (treats_unstable(name) or TRAITS[name].protects_unstable)
    and not (TRAITS[name].keeps_all or TRAITS[name].eliminates)
]
"""Methods that score every state for itself, and unstable ones in a way of their own."""


@functools.cache
def gate() -> Gate:
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        return Gate("half_glu2", gain=jnp.ones(H), offset=jnp.zeros(H), scale=jnp.ones(H), shift=jnp.zeros(H),
                    W2=jnp.asarray(rng.normal(size=(H, H))), b2=jnp.zeros(H))  # fmt: skip


def measured(system: DiagonalSSM) -> Moments:
    """Returns the moments of a short white sequence, which is finite whatever the poles are."""
    with jax.enable_x64(True):
        a, B = (np.asarray(x) for x in system.discretise())
        u = np.random.default_rng(5).normal(size=(1, STEPS, H))
        x, states = np.zeros(len(a), complex), []
        for k in range(STEPS):
            x = a * x + B @ u[0, k]
            states.append(x)
        x = np.stack(states)[None]
        y = 2 * (x @ np.asarray(system.C).T).real + np.asarray(system.D) * u
        return Moments.of(real_states(jnp.asarray(x)), jnp.asarray(u), jnp.asarray(y), jnp.ones((1, STEPS), bool))


def network(name: str, system: DiagonalSSM) -> list[Layer]:
    """Returns the layer and an ordinary one."""
    systems = [system, layer_of(-0.5 + 3j * np.arange(1, P + 1), discretisation=system.discretisation)]
    moments = getattr(VARIANTS[name], "needs_moments", False)
    return [Layer(s, STEPS, gate(), measured(s) if moments else None) for s in systems]


def protecting(method: Any) -> Any:
    """Returns a method that scores unstable modes with infinity, where that is an option (`test_unstable.py`)."""
    formula = getattr(method, "unstable", None) == "formula"
    return dataclasses.replace(method, unstable="protect") if formula else method


def reduced(name: str, system: DiagonalSSM) -> tuple[stage.Ranking, Any]:
    """Returns the ranking of a network and, of a projection, what half of it is reduced to."""
    method, layers = protecting(VARIANTS[name]), network(name, system)
    fitted: Fitted | None = method.fit(layers, 0) if isinstance(method, Projection) else None
    ranking = stage.rank(method, load_allocation("normalised"), layers, seed=0, fitted=fitted)
    selected = stage.select(ranking, 0.5)
    return ranking, fitted.reduce(selected.counts) if fitted else None


def stored_error(full: DiagonalSSM, small: DiagonalSSM) -> float:
    """Returns the H-infinity error of a layer stored in single precision, its unstable modes left out."""

    def kept(x: Any) -> np.ndarray:
        value = np.asarray(x)
        if np.iscomplexobj(value):
            return kept(value.real) + 1j * kept(value.imag)
        return value.astype(np.float32).astype(float)

    def discrete(system: DiagonalSSM) -> Stored:
        step = np.exp(kept(np.log(np.asarray(system.Delta))))
        log_a, rate = discretised(kept(system.Lambda), step, system.discretisation)
        return stable(Stored(log_a[None], (rate[:, None] * kept(system.B))[None], kept(system.C)[None], None,
                             kept(system.D)[None]))  # fmt: skip

    return float(swept_norms(difference(discrete(full), discrete(small)))[0][0])


def single(system: DiagonalSSM) -> DiagonalSSM:
    """Returns the layer as it would be stored, so that what follows has that very layer to reduce."""
    with jax.enable_x64(True):
        rounded = jax.tree.map(lambda x: x.astype(np.complex64 if x.dtype == complex else np.float32), system)
        rounded = jax.tree.map(lambda x: x.astype(complex if x.dtype == np.complex64 else float), rounded)
        return dataclasses.replace(rounded, Delta=jnp.exp(jnp.log(system.Delta).astype(np.float32).astype(float)))


@pytest.mark.few(3)
@every_method
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_nothing_but_numbers_comes_out(name: str, discretisation: str) -> None:
    for case, system in FINITE.items():
        if system.discretisation != discretisation:
            continue
        system = single(system)
        ranking, found = reduced(name, system)
        for scores, priorities in zip(ranking.scores, ranking.priorities, strict=True):
            assert np.isfinite(scores).all() or TRAITS[name].keeps_all, case
            assert not np.isnan(priorities).any(), case
        for layer in found or ():
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(layer.system)), case
            with jax.enable_x64(True):
                assert (np.abs(layer.system.discretise()[0]) <= 1).all(), case
        if found and found[0].bound is not None:
            error = stored_error(system, found[0].system)
            assert error <= found[0].bound, case


@pytest.mark.few(3)
@every_method
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_on_the_circle_is_unstable_for_every_method(name: str, discretisation: str) -> None:
    if not (treats_unstable(name) or TRAITS[name].protects_unstable or TRAITS[name].keeps_all):
        pytest.skip(
            "it knows no unstable modes: on a finite horizon, the length of the sequences, every mode is finite"
        )
    for case, (system, count) in UNSTABLE.items():
        if system.discretisation != discretisation:
            continue
        system = single(system)
        ranking, found = reduced(name, system)
        assert not np.isnan(ranking.scores[0]).any(), case
        assert np.isinf(ranking.scores[0]).sum() == (P if TRAITS[name].keeps_all else count), case
        assert name in PROJECTIONS or np.isinf(ranking.scores[0][:count]).all(), case
        if found:
            with jax.enable_x64(True):
                log_radius = np.sort(np.log(np.abs(found[0].system.discretise()[0])))[::-1]
            assert (log_radius[:count] > -1e-12).all() and (log_radius[count:] < 0).all(), case
            if found[0].bound is not None:
                assert stored_error(system, found[0].system) <= found[0].bound, case


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_a_number_is_refused(name: str, case: str) -> None:
    if isinstance(VARIANTS[name], Fresh):
        pytest.skip("draws new layers")
    layers = [Layer(layer_of(), STEPS, gate()), Layer(WRONG[case], STEPS, gate())]
    method = VARIANTS[name]
    with pytest.raises(UserError, match=r"Layer 1: (Lambda|B|C)\[\d.*not finite or too large"):
        if name in MASKINGS:
            stage.mask(MASKINGS[name], [layer.system for layer in layers], 0.5, seed=0)
        elif isinstance(method, Projection):
            method.fit(layers, 0)
        else:
            stage.rank(method, load_allocation("normalised"), layers, seed=0)


@pytest.mark.parametrize("case", STILL)
def test_a_step_of_zero_is_refused_where_poles_are_written_and_unstable_elsewhere(case: str) -> None:
    for name in PROJECTIONS:
        with pytest.raises(UserError, match=r"Layer 0, state 0: the step Delta is .*4 of 4 .*log_step"):
            PROJECTIONS[name].fit([Layer(STILL[case], STEPS, gate()), Layer(layer_of(), STEPS, gate())], 0)
    channels = stack(
        [with_arrays(layer_of(), B=np.ones((P, 1), complex), C=np.ones((1, P), complex), D=np.ones(1))] * 2
    )
    one = with_arrays(channels, Delta=np.asarray(channels.Delta) * np.array([[1.0], [0.0]]))
    with pytest.raises(UserError, match="Layer 0, channel 1 state 0: the step Delta is 0,"):
        PROJECTIONS["bt"].fit([Layer(one)], 0)
    for name in SCORING:
        ranking, _ = reduced(name, STILL[case])
        assert np.isinf(ranking.scores[0]).all() and np.isfinite(ranking.scores[1]).all(), name


def test_a_decay_that_no_modulus_shows_is_a_decay() -> None:
    """|exp(-1e-17 + 2i)| rounds to 1, and |exp(0.02i)| to 1 - 1e-16 on some machines: neither decides."""
    slow = layer_of([-1e-15 + 2j, *DECAY[1:]])
    for name in (*SCORING, "bt"):
        ranking, _ = reduced(name, slow)
        assert np.isfinite(ranking.scores[0]).all(), name
