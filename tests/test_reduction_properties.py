"""The reduction stage and the allocations, for whatever scores a method may give them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reductions import make_network, same
from systems import random_system

from s5c.errors import UserError
from s5c.reduction import contract, stage
from s5c.reduction.contract import load_allocation, load_method
from s5c.reduction.layer import Layer
from s5c.ssm.system import DiagonalSSM

quick = settings(max_examples=40, deadline=None)
every_allocation = pytest.mark.parametrize("allocation", contract.allocation_names())


@dataclasses.dataclass(frozen=True)
class GivenScores:
    """Hands the stage the scores that a test wrote into Delta."""

    def scores(self, layer: Layer, key: jax.Array) -> jax.Array:
        return layer.system.Delta


def ranking_of(scores: list[list[float]], allocation: str) -> stage.Ranking:
    def layer(values: list[float]) -> DiagonalSSM:
        column = jnp.zeros((len(values), 1), complex)
        return DiagonalSSM(column[:, 0], column, column.T, jnp.zeros(1), jnp.asarray(values, jnp.float64))

    with jax.enable_x64(True):
        systems = [layer(values) for values in scores]
    return stage.rank(GivenScores(), load_allocation(allocation), [Layer(s) for s in systems], seed=0)


# Equal scores, zeros, protected states and eighteen orders of magnitude, in layers of equal and of unequal size.
score = st.one_of(
    st.sampled_from([0.0, 0.1, 1.0, math.inf]), st.floats(1e-12, 1e6, allow_subnormal=False), st.floats(0.5, 2.0)
)
networks = st.sampled_from([(1,), (4, 4, 4), (5, 1, 3)]).flatmap(
    lambda dims: st.tuples(*(st.lists(score, min_size=p, max_size=p) for p in dims)).map(list)
)
ratios = st.one_of(st.integers(0, 99).map(lambda percent: percent / 100), st.floats(0, 1, exclude_max=True))


# --- how many stay ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "states", "layers", "kept"),
    [
        (0.0, 10, 2, 10),
        (1e-12, 10, 2, 10),
        (0.3, 10, 2, 7),
        (0.1 + 0.2, 10, 2, 7),  # 0.30000000000000004
        (1 - 0.7, 10, 2, 7),
        (1 - 0.9, 10, 2, 9),  # 0.09999999999999998: an error of the last digit must not cost a state
        (0.29, 100, 1, 71),  # 0.29 * 100 = 28.999999999999996
        (0.57, 100, 1, 43),  # 0.57 * 100 = 56.99999999999999
        (0.95, 128, 4, 6),  # 6.4 states: the released code of LAST and of AIRE-Prune keeps the whole ones
        (0.999, 10, 2, 2),
        (1 - 2**-53, 10, 2, 2),
        (0.5, 3, 3, 3),
    ],
)
def test_the_budget_of_awkward_ratios(ratio: float, states: int, layers: int, kept: int) -> None:
    assert stage.budget(ratio, states, layers) == kept


@settings(max_examples=300, deadline=None)
@given(per_mille=st.integers(0, 999), states=st.integers(1, 5000), layers=st.integers(1, 12))
def test_the_budget_is_exact_for_decimal_ratios(per_mille: int, states: int, layers: int) -> None:
    expected = max((1000 - per_mille) * states // 1000, layers)
    assert stage.budget(per_mille / 1000, states, layers) == expected
    assert stage.budget(1 - (1000 - per_mille) / 1000, states, layers) == expected


@settings(max_examples=100, deadline=None)
@given(states=st.integers(1, 5000), data=st.data())
def test_every_number_of_states_can_be_asked_for(states: int, data: Any) -> None:
    removed = data.draw(st.integers(0, states - 1))
    assert stage.budget(removed / states, states, 1) == states - removed
    assert stage.budget(float(Fraction(removed, states)), states, 1) == states - removed


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5, -1e-12, math.nan, math.inf])
def test_ratios_outside_the_interval_are_refused(ratio: float) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: stage.check_ratio(ratio),
        lambda: stage.budget(ratio, 10, 1),
        lambda: stage.select(ranking_of([[1.0]], "global"), ratio),
        lambda: stage.mask(load_method("unstructured_random"), make_network(), ratio, seed=0),
    ]
    for call in calls:
        with pytest.raises(UserError, match=rf"reduction\.ratio={ratio:g}: .* must lie in \[0, 1\); for instance"):
            call()


# --- which ones stay --------------------------------------------------------------------------------------------------


@every_allocation
@quick
@given(scores=networks, asked=st.lists(ratios, min_size=3, max_size=6))
def test_a_selection_is_right_for_any_scores(allocation: str, scores: list[list[float]], asked: list[float]) -> None:
    ranking = ranking_of(scores, allocation)
    states = sum(map(len, scores))
    protected = [np.isinf(s) for s in ranking.scores]
    must_stay = sum(max(int(p.sum()), 1) for p in protected)
    assert not any(np.isnan(p).any() for p in ranking.priorities)
    before = np.ones(states, bool)
    for ratio in [0.0, *sorted(asked), 1 - 1e-9]:
        selected = stage.select(ranking, ratio)
        kept = np.concatenate(selected.keep)
        assert kept.sum() == max(math.floor((1 - ratio) * states + 1e-9), must_stay)
        assert min(selected.orders) >= 1
        assert not (kept & ~before).any()  # nested
        for values, keep, stays in zip(scores, selected.keep, protected, strict=True):
            assert keep[stays].all()
            best_first = sorted(range(len(values)), key=lambda i: (-values[i], i))  # of equals the first one
            assert set(np.flatnonzero(keep)) == set(best_first[: keep.sum()])
        assert bool(selected.notes) == (
            0 < sum(map(np.sum, protected)) < states or must_stay > stage.budget(ratio, states, len(scores))
        )
        before = kept
    assert stage.select(ranking, 0.0).orders == [len(s) for s in scores]


@every_allocation
@quick
@given(scores=networks)
def test_ties_are_broken_by_layer_and_index(allocation: str, scores: list[list[float]]) -> None:
    ranking = ranking_of(scores, allocation)
    priorities = np.concatenate(ranking.priorities)
    assert ranking.order.tolist() == sorted(range(len(priorities)), key=lambda i: (-priorities[i], i))


@every_allocation
def test_of_equal_layers_the_first_keep_more(allocation: str) -> None:
    ranking = ranking_of([[0.1] * 4] * 3, allocation)
    orders = [stage.select(ranking, removed / 12).orders for removed in range(10)]
    assert all(kept == sorted(kept, reverse=True) for kept in orders)
    if allocation in ("global", "greedy"):  # one threshold, all scores equal: the position decides
        assert orders[3] == [4, 4, 1]
    else:
        assert orders[3] == [3, 3, 3] and orders[4] == [3, 3, 2]


def test_protected_states_do_not_dwarf_the_others() -> None:
    """What competes in a layer with an unstable mode competes as if that mode were not there."""
    others = [3.0, 2.0, 1.0, 0.5]
    with_one = ranking_of([[math.inf, *others], [*others, 0.1]], "normalised")
    np.testing.assert_array_equal(with_one.priorities[0][2:], with_one.priorities[1][1:4])
    assert with_one.priorities[0][1] == 1


# --- allocations ------------------------------------------------------------------------------------------------------

P = 6
descending = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-12, 1e12, allow_subnormal=False), st.floats(1.0, 1 + 1e-14)),
    min_size=P,
    max_size=P,
).map(lambda values: np.array(sorted(values, reverse=True)))
PRIORITIES = {name: jax.jit(load_allocation(name).priority) for name in contract.allocation_names()}


def priorities(allocation: str, ranked: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(PRIORITIES[allocation](jnp.asarray(ranked)))


@every_allocation
@quick
@given(ranked=descending)
def test_priorities_do_not_increase_down_the_ranking(allocation: str, ranked: np.ndarray) -> None:
    found = priorities(allocation, ranked)
    assert found.shape == (P,) and found.dtype == np.float64
    assert np.isfinite(found).all()
    assert (np.diff(found) <= 0).all()


@quick
@given(ranked=descending, scale=st.floats(1e-9, 1e9))
def test_normalised_is_the_share_among_the_survivors(ranked: np.ndarray, scale: float) -> None:
    found = priorities("normalised", ranked)
    if ranked[0] == 0:
        assert (found == 0).all()
        return
    assert found[0] == 1
    np.testing.assert_allclose(found, [h / sum(ranked[: i + 1]) for i, h in enumerate(ranked)], rtol=1e-14)
    np.testing.assert_allclose(priorities("normalised", scale * ranked), found, rtol=1e-13)


@quick
@given(ranked=descending)
def test_global_compares_raw_scores_and_uniform_none(ranked: np.ndarray) -> None:
    np.testing.assert_array_equal(priorities("global", ranked), ranked)
    np.testing.assert_allclose(priorities("uniform", ranked), 1 - np.arange(P) / P, rtol=1e-14)


@quick
@given(scores=networks, ratio=ratios)
def test_uniform_gives_every_layer_the_same_share(scores: list[list[float]], ratio: float) -> None:
    finite = [[value if math.isfinite(value) else 7.0 for value in layer] for layer in scores]
    selected = stage.select(ranking_of(finite, "uniform"), ratio)
    if len(set(map(len, scores))) == 1:
        share = sum(selected.orders) // len(scores)
        assert all(kept in (share, share + 1) for kept in selected.orders)
        assert selected.orders == sorted(selected.orders, reverse=True)  # the remainder goes to the first layers
    # In general: no layer keeps a state beyond its share while another is short of its own.
    sizes = [len(layer) for layer in scores]
    shares = [Fraction(kept, p) for kept, p in zip(selected.orders, sizes, strict=True)]
    without_last = [Fraction(kept - 1, p) for kept, p in zip(selected.orders, sizes, strict=True)]
    assert max(without_last) <= min(shares)


# --- the unstructured baseline ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.8])
def test_unstructured_random_silences_the_share_asked_for(ratio: float) -> None:
    method, system = load_method("unstructured_random"), random_system(np.random.default_rng(0), 40, 10)
    (masked,) = stage.mask(method, [system], ratio, seed=3)
    for name in ("Lambda", "B", "C"):
        numbers = np.asarray(getattr(masked, name)).view(np.float64)
        deviation = math.sqrt(ratio * (1 - ratio) / numbers.size)
        assert abs((numbers == 0).mean() - ratio) < 4 * deviation
    assert same((masked.D, masked.Delta), (system.D, system.Delta))
    # Real and imaginary parts fall independently.
    parts = np.asarray(masked.B).view(np.float64).reshape(-1, 2) == 0
    assert abs((parts[:, 0] & parts[:, 1]).mean() - ratio**2) < 4 * math.sqrt(ratio**2 * (1 - ratio**2) / len(parts))
