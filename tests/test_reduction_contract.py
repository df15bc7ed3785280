"""What every reduction method must do, whichever methods there are, and how a network takes it.

No method is named: what one need not do, it says itself (`s5c.reduction.contract.Traits`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reductions import (
    MASKINGS,
    SELECTIONS,
    TRAITS,
    H,
    P,
    make_network,
    protecting,
    rank,
    same,
    treats_unstable,
    unstable,
    with_arrays,
)

from s5c.model import surgery
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.family.s5 import Config
from s5c.model.layerwise import log_probs
from s5c.reduction import stage
from s5c.reduction.contract import Traits
from s5c.ssm.system import DiagonalSSM

every_selection = pytest.mark.parametrize("name", SELECTIONS)
every_masking = pytest.mark.parametrize("name", MASKINGS)

REMOVED = {0.0: 0, 1e-6: 1, 0.1: 2, 0.3: 6, 0.1 + 0.2: 6, 0.5: 9, 0.75: 14, 0.9: 15, 1 - 1e-6: 15}
"""Ratio -> states removed out of 18 in three layers, each of which keeps one."""


def selections(which: Callable[[Traits], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name in SELECTIONS if which(TRAITS[name])])


every_protecting = pytest.mark.parametrize(
    "name",
    [n for n in SELECTIONS if (treats_unstable(n) or TRAITS[n].protects_unstable) and not TRAITS[n].keeps_all],
)


# --- selection --------------------------------------------------------------------------------------------------------


@every_selection
def test_the_order_is_honoured_exactly(name: str) -> None:
    ranking = rank(name, make_network())
    before = np.ones(3 * P, bool)
    for ratio, removed in REMOVED.items():
        selected = stage.select(ranking, ratio)
        removed = 0 if TRAITS[name].keeps_all else removed
        assert sum(selected.orders) == 3 * P - removed
        assert min(selected.orders) >= 1
        assert selected.ratio_achieved == pytest.approx(removed / (3 * P))
        kept = np.concatenate(selected.keep)
        assert not (kept & ~before).any()  # nested: a smaller network is part of every larger one
        before = kept
        for scores, keep in zip(ranking.scores, selected.keep, strict=True):
            best_first = np.argsort(-scores, kind="stable")
            np.testing.assert_array_equal(np.flatnonzero(keep), np.sort(best_first[: keep.sum()]))


@every_selection
def test_layers_of_unequal_size_compete(name: str) -> None:
    ranking = rank(name, make_network(dims=(P, 1, 3)))
    assert ranking.slots == [P, 1, 3]
    assert sorted(ranking.order) == list(range(10))
    selected = [stage.select(ranking, ratio) for ratio in (0.1, 0.5, 0.9)]
    assert [sum(s.orders) for s in selected] == ([10, 10, 10] if TRAITS[name].keeps_all else [9, 5, 3])
    assert all([len(keep) for keep in s.keep] == [P, 1, 3] and min(s.orders) == 1 for s in selected)


@every_selection
def test_scores_are_deterministic_and_in_double_precision(name: str) -> None:
    systems = make_network()
    first, again = rank(name, systems), rank(name, systems)
    for a, b in zip(first.scores, again.scores, strict=True):
        assert a.dtype == np.float64
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first.order, again.order)
    assert not jax.config.read("jax_enable_x64")
    assert jnp.ones(1).dtype == jnp.float32
    other = rank(name, systems, seed=1)
    assert same(first.scores, other.scores) != TRAITS[name].draws_numbers
    if TRAITS[name].draws_numbers:
        assert not np.array_equal(first.scores[0], first.scores[1])  # every layer has a stream of its own


def changed(system: DiagonalSSM, part: str) -> DiagonalSSM:
    """Returns the system with another third state, in one part of it: twice the inputs or outputs, or a slower pole."""
    third = np.where(np.arange(P) == 2, 2.0, 1.0)
    if part == "poles":  # B_bar is what it was, so that the inputs are
        Lambda = np.array(system.Lambda)
        Lambda[2] = complex(0.5 * Lambda[2].real, Lambda[2].imag)
        slower = with_arrays(system, Lambda=Lambda)
        with jax.enable_x64(True):
            was, now = (np.asarray(s.discretise()[1]) for s in (system, slower))
        return with_arrays(slower, B=np.asarray(system.B) * (was / now))
    if part == "inputs":
        return with_arrays(system, B=np.asarray(system.B) * third[:, None])
    assert part == "outputs" and system.C_backward is not None
    return with_arrays(system, C=np.asarray(system.C) * third, C_backward=np.asarray(system.C_backward) * third)


@pytest.mark.parametrize("part", ["poles", "inputs", "outputs"])
@selections(lambda traits: traits.depends_on is not None)
def test_scores_look_at_what_they_say_and_at_nothing_else(name: str, part: str) -> None:
    system = make_network()[0]
    before, after = (rank(name, [one] * 3).scores[0] for one in (system, changed(system, part)))
    depends_on = TRAITS[name].depends_on
    assert depends_on is not None and depends_on <= {"poles", "inputs", "outputs"}
    if part not in depends_on:
        np.testing.assert_allclose(after, before, rtol=1e-12)
    elif part == "poles":
        assert abs(after[2] / before[2] - 1) > 1e-3
    else:
        assert after[2] > before[2]


@selections(lambda traits: "poles" in (traits.depends_on or ()) and not traits.eliminates)
def test_poles_that_differ_below_single_precision_score_differently(name: str) -> None:
    system = make_network()[0]
    one = with_arrays(system, **{n: np.array(getattr(system, n)) for n in ("B", "C", "C_backward")})
    with jax.enable_x64(True):
        equal = one.take(np.zeros(P, int))
    ranking = rank(name, [with_arrays(equal, Lambda=np.asarray(equal.Lambda) * (1 + 1e-10 * np.arange(P)))] * 3)
    steps = np.diff(ranking.scores[0])
    assert (steps > 0).all() or (steps < 0).all()


@selections(lambda traits: "inputs" in (traits.depends_on or ()) and not traits.eliminates)
def test_differences_below_single_precision_count(name: str) -> None:
    """Two modes apart by 1e-10 are ranked rightly, in whichever order they are stored."""
    system = make_network()[0]
    Lambda, B, C, Delta, back = (np.array(getattr(system, n)) for n in ("Lambda", "B", "C", "Delta", "C_backward"))
    for array in (Lambda, B, Delta):
        array[:] = array[:1]
    for array in (C, back):
        array[:] = array[:, :1]
    B *= 1 + 1e-10 * np.array([3, 1, 5, 0, 4, 2])[:, None]
    ranking = rank(name, [with_arrays(system, Lambda=Lambda, B=B, C=C, Delta=Delta, C_backward=back)] * 3)
    np.testing.assert_array_equal(np.argsort(-ranking.scores[0]), [2, 4, 0, 5, 1, 3])


@selections(lambda traits: not traits.draws_numbers)
def test_permuted_states_give_the_permuted_selection(name: str) -> None:
    systems, rng = make_network(), np.random.default_rng(1)
    permutations = [rng.permutation(P) for _ in systems]
    with jax.enable_x64(True):
        permuted = [system.take(p) for system, p in zip(systems, permutations, strict=True)]
    one, two = rank(name, systems), rank(name, permuted)
    for a, b, p in zip(one.scores, two.scores, permutations, strict=True):
        np.testing.assert_allclose(a[p], b, rtol=1e-12)
    for ratio in (0.2, 0.5, 0.8):
        keeps = zip(stage.select(one, ratio).keep, stage.select(two, ratio).keep, permutations, strict=True)
        assert all(np.array_equal(a[p], b) for a, b, p in keeps)


def rescaled(system: DiagonalSSM, s: np.ndarray) -> DiagonalSSM:
    """Returns the same input-output map in other coordinates: B by s, C by 1/s, one complex s per state."""
    B, C, back = (np.asarray(getattr(system, name)) for name in ("B", "C", "C_backward"))
    return with_arrays(system, B=B * s[:, None], C=C / s, C_backward=back / s)


@every_selection
def test_the_choice_of_coordinates_does_not_matter(name: str) -> None:
    systems, rng = make_network(), np.random.default_rng(2)
    scales = [np.exp(rng.normal(size=P) + 1j * rng.uniform(0, 6, P)) for _ in systems]
    one, two = rank(name, systems), rank(name, [rescaled(s, x) for s, x in zip(systems, scales, strict=True)])
    unchanged = all(np.allclose(a, b, rtol=1e-9) for a, b in zip(one.scores, two.scores, strict=True))
    assert unchanged == TRAITS[name].invariant
    if unchanged:
        np.testing.assert_array_equal(one.order, two.order)


@selections(lambda traits: not traits.eliminates)
def test_both_directions_count(name: str) -> None:
    system = make_network()[0]
    silenced = {}
    for direction in ("C", "C_backward"):
        matrix = np.array(getattr(system, direction))
        matrix[:, 2] = 0
        silenced[direction] = rank(name, [with_arrays(system, **{direction: matrix})] * 3).scores[0]
    full = rank(name, [system] * 3).scores[0]
    for scores in silenced.values():
        np.testing.assert_allclose(np.delete(scores, 2), np.delete(full, 2), rtol=1e-12)
        if (depends_on := TRAITS[name].depends_on) is not None:
            assert 0 < scores[2] < full[2] if "outputs" in depends_on else scores[2] == full[2]


@every_protecting
def test_unstable_modes_stay_if_protected_and_are_reported(name: str) -> None:
    first, second, third = make_network()
    ranking = rank(name, [unstable(first, [1, 4]), second, unstable(third, [0])], **protecting(name))
    assert [np.flatnonzero(np.isinf(scores)).tolist() for scores in ranking.scores] == [[1, 4], [], [0]]
    for ratio in (0.3, 0.999):
        selected = stage.select(ranking, ratio)
        assert selected.keep[0][[1, 4]].all() and selected.keep[2][0]
        assert selected.notes[0] == "3 unstable modes (|Lambda_bar| >= 1) are never removed (layer 0: 2, layer 2: 1)."
    assert sum(stage.select(ranking, 0.3).orders) == 12
    assert selected.orders == [2, 1, 1]
    assert selected.notes[1] == "ratio 0.999 asks for 3 states, 4 are protected and stay."


@every_protecting
def test_a_network_of_unstable_modes_stays_whole_if_they_are_protected(name: str) -> None:
    systems = [unstable(system, list(range(P))) for system in make_network()]
    ranking = rank(name, systems, **protecting(name))
    selected = stage.select(ranking, 0.5)
    assert selected.orders == [P, P, P] and selected.ratio_achieved == 0
    assert selected.notes == ("ratio 0.5 asks for 9 states, 18 are protected and stay.",)


@every_selection
def test_dead_layers_and_equal_states_are_no_obstacle(name: str) -> None:
    first, second, third = make_network()
    zero = np.zeros((H, P), complex)
    with jax.enable_x64(True):
        twins = third.take(np.zeros(P, int))
    ranking = rank(name, [with_arrays(first, C=zero, C_backward=zero), second, twins])
    assert not any(np.isnan(x).any() for x in (*ranking.scores, *ranking.priorities))
    selected = stage.select(ranking, 0.5)
    assert sum(selected.orders) == (18 if TRAITS[name].keeps_all else 9)
    if not (TRAITS[name].draws_numbers or TRAITS[name].eliminates):
        dead = [selected.keep[0]] if "outputs" in (TRAITS[name].depends_on or ()) else []
        for keep in (*dead, selected.keep[2]):  # of equals the first ones stay
            assert keep[: keep.sum()].all()


@every_selection
def test_one_compilation_serves_every_ratio(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def compiled(seed: int) -> list[str]:
        caplog.clear()
        ranking = rank(name, make_network(seed), seed=seed)
        for ratio in REMOVED:
            stage.select(ranking, ratio)
        return [message for message in caplog.messages if "Compiling" in message and "_scores" in message]

    stage._scores.clear_cache()
    with jax.log_compiles():
        assert len(compiled(0)) == 1
        assert compiled(1) == []


# --- masking ----------------------------------------------------------------------------------------------------------


@every_masking
def test_masks_are_nested_and_change_no_shape(name: str, caplog: pytest.LogCaptureFixture) -> None:
    method, systems = MASKINGS[name], make_network()
    stage._mask.clear_cache()
    with jax.log_compiles():
        whole = stage.mask(method, systems, 0.0, seed=0)
        assert sum("Compiling" in m and "_mask" in m for m in caplog.messages) == 1  # for all layers
        caplog.clear()
        masked = [stage.mask(method, systems, ratio, seed=0) for ratio in (0.2, 0.5, 0.9)]
        other = stage.mask(method, systems, 0.9, seed=1)
        assert not any("Compiling" in m and "_mask" in m for m in caplog.messages)
    assert not jax.config.read("jax_enable_x64")

    assert same(whole, systems)
    for before, after in zip([systems, *masked], masked, strict=False):
        assert not same(before, after)
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            assert (old.shape, old.dtype) == (new.shape, new.dtype)
            for a, b in ((old.real, new.real), (old.imag, new.imag)):
                assert ((np.asarray(b) == 0) | (np.asarray(a) == np.asarray(b))).all()
    assert same(stage.mask(method, systems, 0.9, seed=0), masked[-1])
    assert same(other, masked[-1]) != TRAITS[name].draws_numbers


# --- on the network ---------------------------------------------------------------------------------------------------

SPEC = InputSpec(features=2, classes=3)


INPUTS = np.random.default_rng(0).normal(size=(2, 10, SPEC.features)).astype(np.float32)


@functools.cache
def initialised(bidirectional: bool) -> tuple[Config, Any]:
    config = Config(n_layers=3, d_model=H, state_size=2 * P, blocks=1, bidirectional=bidirectional)
    init = jax.jit(Classifier(config, SPEC, (P, P, P)).init)
    return config, init(jax.random.key(0), INPUTS)


def outputs(bidirectional: bool, params: Any) -> np.ndarray:
    config, variables = initialised(bidirectional)
    model = Classifier(config, SPEC, surgery.state_dims(params, config))
    return np.asarray(log_probs(model, {**variables, "params": params}, jnp.asarray(INPUTS), None))


@pytest.mark.parametrize(("name", "bidirectional"), [(name, True) for name in SELECTIONS] + [("hinf", False)])
def test_masked_equals_shrunk(name: str, bidirectional: bool) -> None:
    config, variables = initialised(bidirectional)
    params = variables["params"]
    ranking = rank(name, surgery.systems(params, config))

    untouched = surgery.take(params, stage.select(ranking, 0.0).keep, config)[0]
    assert same(untouched, params)
    full = outputs(bidirectional, params)
    np.testing.assert_allclose(outputs(bidirectional, untouched), full, atol=1e-5)

    selected = stage.select(ranking, 0.5)
    shrunk, masked = surgery.take(params, selected.keep, config)[0], surgery.mask(params, selected.keep, config)
    assert surgery.state_dims(shrunk, config) == tuple(selected.orders)
    assert surgery.state_dims(masked, config) == (P, P, P)
    np.testing.assert_allclose(outputs(bidirectional, shrunk), outputs(bidirectional, masked), atol=1e-5)
    if not TRAITS[name].keeps_all:
        assert np.abs(outputs(bidirectional, shrunk) - full).max() > 1e-3


def test_a_reduced_network_can_be_reduced_again() -> None:
    config, variables = initialised(True)
    once = stage.select(rank("hinf", surgery.systems(variables["params"], config)), 0.4)
    smaller = surgery.take(variables["params"], once.keep, config)[0]
    assert len(set(once.orders)) > 1  # layers of unequal size
    twice = stage.select(rank("hinf", surgery.systems(smaller, config)), 0.5)
    smallest = surgery.take(smaller, twice.keep, config)[0]
    assert sum(surgery.state_dims(smallest, config)) == 5
    masked = surgery.mask(smaller, twice.keep, config)
    np.testing.assert_allclose(outputs(True, smallest), outputs(True, masked), atol=1e-5)
