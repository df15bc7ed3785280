"""What every projection must do: methods that make new systems instead of keeping states."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reductions
from reductions import PROJECTIONS, TRAITS
from systems import random_system
from white import white_moments

from s5c.errors import UserError
from s5c.reduction import stage
from s5c.reduction.contract import Fitted, load_allocation
from s5c.reduction.gate import Gate
from s5c.reduction.layer import Layer, stack
from s5c.reduction.method import bt
from s5c.ssm.system import DiagonalSSM

P, H, STEPS = 6, 3, 60
SHARED = [name for name in PROJECTIONS if not TRAITS[name].mixes_channels]


def parametrised(names: Iterable[str]) -> pytest.MarkDecorator:
    """Runs a test with every projection; those that search compile for half a minute."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.slow) if TRAITS[name].searches else name for name in names]
    )


every_projection = parametrised(PROJECTIONS)


def gate(rng: np.random.Generator) -> Gate:
    return Gate(
        "half_glu1",
        scale=jnp.asarray(rng.uniform(0.5, 2, H)), shift=jnp.asarray(rng.normal(size=H)),
        gain=jnp.asarray(rng.uniform(0.5, 2, H)), offset=jnp.asarray(rng.normal(size=H)),
        W2=jnp.asarray(rng.normal(size=(H, H))), b2=jnp.asarray(rng.normal(size=H)),
    )  # fmt: skip


def network(seed: int = 0, *, bidirectional: bool = True) -> list[Layer]:
    """Returns two whole layers of different size."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        layers = [
            Layer(random_system(rng, p, H, bidirectional=bidirectional, radius=0.9), 32, gate(rng)) for p in (P, 4)
        ]
    return [measured(layer) for layer in layers]


def channels(seed: int = 0) -> list[Layer]:
    """Returns a layer with one single-input system per channel."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        layers = [Layer(random_system(rng, P, 1, radius=0.9), 32) for _ in range(H)]
        return [stack([measured(layer) for layer in layers])]


def measured(layer: Layer) -> Layer:
    """Returns the layer with the moments that white input would give, for methods that ask for them."""
    return dataclasses.replace(layer, moments=white_moments(layer.system))


def taps_of(system: DiagonalSSM) -> np.ndarray:
    """Returns h_k = 2 Re(C a^k B), plus D at k = 0, written out in NumPy."""
    with jax.enable_x64(True):
        a, B = (np.asarray(x) for x in system.discretise())
    taps = np.array([2 * (np.asarray(system.C) @ (a[:, None] ** k * B)).real for k in range(STEPS)])
    taps[0] += np.diag(np.asarray(system.D))
    return taps


def response(system: DiagonalSSM) -> np.ndarray:
    """Returns the impulse response, from the past to the future where there are two directions."""
    if system.Lambda.ndim == 2:
        one = [jax.tree.map(lambda x, c=c: x[c], system) for c in range(len(system.Lambda))]
        return np.stack([response(channel) for channel in one])
    forward = taps_of(system)
    if system.C_backward is None:
        return forward
    backward = dataclasses.replace(system, C=system.C_backward, D=jnp.zeros_like(system.D), C_backward=None)
    back = taps_of(backward)
    forward[0] += back[0]  # both directions see the current input
    return np.concatenate([back[:0:-1], forward])


def whole(layers: list[Layer]) -> list[np.ndarray]:
    return [np.asarray(np.full(layer.system.Lambda.shape[:-1], layer.system.state_dim)) for layer in layers]


class Fits(dict[str, Fitted]):
    """One fit per method serves every test that only cuts."""

    def __missing__(self, name: str) -> Fitted:
        self[name] = PROJECTIONS[name].fit(network(), 0)
        return self[name]


@pytest.fixture(scope="module")
def fits() -> Fits:
    return Fits()


@every_projection
def test_slot_scores_never_rise(name: str, fits: Fits) -> None:
    for layer, scores in zip(network(), fits[name].scores, strict=True):
        assert isinstance(scores, np.ndarray) and scores.shape == layer.system.Lambda.shape
        assert (np.diff(scores) <= 0).all() and (scores >= 0).all()


@every_projection
@pytest.mark.parametrize("orders", [(3, 2), (1, 4)])
def test_the_order_is_honoured_and_the_system_stable(name: str, orders: tuple[int, int], fits: Fits) -> None:
    reduced = fits[name].reduce([np.asarray(order) for order in orders])
    for layer, found, order in zip(network(), reduced, orders, strict=True):
        system = found.system
        assert system.state_dim <= order and system.Lambda.dtype == np.complex128
        assert (np.abs(np.asarray(system.discretise()[0])) < 1).all()
        assert (system.C_backward is None) == (layer.system.C_backward is None)
        assert system.discretisation == layer.system.discretisation
        assert np.isfinite(response(system)).all()


@every_projection
def test_the_full_order_changes_nothing(name: str, fits: Fits) -> None:
    layers = network()
    for layer, found in zip(layers, fits[name].reduce(whole(layers)), strict=True):
        expected = response(layer.system)
        np.testing.assert_allclose(response(found.system), expected, atol=1e-6 * np.abs(expected).max())


@every_projection
def test_a_larger_order_is_not_worse(name: str, fits: Fits) -> None:
    layers = network()
    expected = response(layers[0].system)
    errors = []
    for order in (1, 3, 5):
        found = fits[name].reduce([np.asarray(order), np.asarray(4)])[0].system
        errors.append(np.linalg.norm(response(found) - expected) / np.linalg.norm(expected))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.5


@every_projection
def test_permuting_states_changes_nothing(name: str, fits: Fits) -> None:
    order = [np.asarray(3), np.asarray(2)]
    permutations = np.random.default_rng(3).permutation(P), np.random.default_rng(4).permutation(4)
    with jax.enable_x64(True):
        permuted = [
            measured(dataclasses.replace(layer, system=layer.system.take(p)))
            for layer, p in zip(network(), permutations, strict=True)
        ]
    other = PROJECTIONS[name].fit(permuted, 0)
    for a, b in zip(fits[name].scores, other.scores, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    if TRAITS[name].searches:
        return  # it ends where rounding leads it
    for a, b in zip(fits[name].reduce(order), other.reduce(order), strict=True):
        scale = np.abs(response(a.system)).max()
        np.testing.assert_allclose(response(a.system), response(b.system), atol=1e-4 * scale)


@every_projection
def test_a_cut_is_shared_out_as_for_states(name: str, fits: Fits) -> None:
    ranking = stage.rank(PROJECTIONS[name], load_allocation("tolerance"), network(), seed=0, fitted=fits[name])
    selected = stage.select(ranking, 0.5)
    assert sum(selected.orders) == 5 and min(selected.orders) >= 1
    for keep in selected.keep:
        assert list(keep) == sorted(keep, reverse=True), "the slots that stay are the leading ones"


@parametrised(SHARED)
def test_channels_get_orders_of_their_own(name: str) -> None:
    layers = channels()
    fitted = PROJECTIONS[name].fit(layers, 0)
    assert fitted.scores[0].shape == (H, P)
    (found,) = fitted.reduce([np.array([3, 1, 0])])
    assert found.system.Lambda.shape == (H, 3)
    taps = response(found.system)
    expected = response(layers[0].system)
    lag = taps[2].copy()
    lag[0] = 0  # D, the only thing a channel of order 0 keeps
    assert np.abs(lag).max() == 0
    relative = np.linalg.norm((taps - expected).reshape(H, -1), axis=1) / np.linalg.norm(
        expected.reshape(H, -1), axis=1
    )
    assert relative[0] < relative[2]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.slow
def test_bt_on_the_covariance_that_white_input_gives_is_bt(bidirectional: bool, per_channel: bool) -> None:
    """The moments come from a Lyapunov equation of their own (`white`)."""
    systems = [
        random_system(np.random.default_rng(i), 6, 1 if per_channel else 4, bidirectional=bidirectional)
        for i in range(2)
    ]
    layers = [reductions.layer(system, moments=True) for system in systems]
    if per_channel:
        layers = [stack(layers)]
    orders = [np.array([3, 2])] if per_channel else [np.array(3), np.array(2)]
    measured, white = (bt.Method(gramian=name).fit(layers, 0) for name in ("empirical", "white"))
    for ours, theirs in zip(measured.scores, white.scores, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7 * theirs.max())
    for ours, theirs in zip(measured.reduce(orders), white.reduce(orders), strict=True):
        expected = response(theirs.system)
        np.testing.assert_allclose(response(ours.system), expected, atol=1e-6 * np.abs(expected).max())
        assert ours.bound is None and theirs.bound is not None


@pytest.mark.parametrize("other", [{"balance": "continuous"}, {"variant": "perturbation"}])
def test_measured_states_go_with_truncation_of_what_runs(other: dict[str, str]) -> None:
    with pytest.raises(UserError, match="gramian=empirical"):
        bt.Method(gramian="empirical", **other)


def to_a_constant(system: DiagonalSSM) -> np.ndarray:
    """Returns G(1) = D + 2 Re(C (1 - a)^{-1} B), written out; a matrix per channel."""
    with jax.enable_x64(True):
        discretise = jax.vmap(DiagonalSSM.discretise) if system.Lambda.ndim == 2 else DiagonalSSM.discretise
        a, B = (np.asarray(x) for x in discretise(system))
    direct = np.asarray(system.D)
    D = direct[..., None] if system.Lambda.ndim == 2 else np.diag(direct)
    return D + 2 * (np.asarray(system.C) @ (B / (1 - a)[..., None])).real


def test_layers_with_a_system_per_channel_keep_their_answer_to_a_constant() -> None:
    (layer,) = channels()
    found = {
        variant: bt.Method(variant=variant).fit([layer], 0).reduce([np.array([2, 3, 2])])[0]
        for variant in ("truncation", "perturbation")
    }
    moved = {
        variant: np.abs(to_a_constant(one.system) - to_a_constant(layer.system)).max() for variant, one in found.items()
    }
    assert moved["perturbation"] < 1e-8 < 1e-2 < moved["truncation"]
    assert not found["perturbation"].notes and found["perturbation"].bound is not None


def test_layers_of_several_inputs_say_how_far_their_answer_to_a_constant_moves() -> None:
    layer = network(bidirectional=False)[0]
    (found,) = bt.Method(variant="perturbation").fit([layer], 0).reduce([np.array(3)])
    before, after = to_a_constant(layer.system), to_a_constant(found.system)
    np.testing.assert_allclose(np.diag(after), np.diag(before), rtol=1e-8)  # what fits is kept
    moved = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert f"the answer to a constant moves by {moved:.2g} of itself" in found.notes[0]
    assert bt.Method().fit([layer], 0).reduce([np.array(3)])[0].notes == ()
