"""`h2`: H2-optimal reduction, poles and inputs found by gradient descent and outputs in closed form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError, bounded, unknown
from s5c.reduction.contract import Fitted, ReducedLayer
from s5c.reduction.descent import OPTIMISERS, descend
from s5c.reduction.energy import parts_of, taps
from s5c.reduction.layer import Layer, check_finite, check_steps
from s5c.reduction.method.aire import elimination_scores
from s5c.reduction.projection import Start, Target, at, squared_error, target_of, variables
from s5c.reduction.refit.h2 import Refit as White
from s5c.reduction.refit.h2 import best_outputs, white
from s5c.reduction.slots import kept, padded
from s5c.reduction.truncation import UNSTABLE, realise, truncate
from s5c.ssm.modal import ModalSystem, from_ssm, undo_discretise
from s5c.ssm.system import DiagonalSSM, stack
from s5c.types import Array, Float, Int

CHUNK = 64
"""Systems searched at once: a search of many at once lasts as long as its longest."""


@dataclasses.dataclass(frozen=True)
class Method:
    """Looks for the systems of least H2 error, all layers and channels at once.

        min over poles and B of  J = ||G - G_r||^2 / ||G||^2 at the best C    (`s5c.reduction.projection`)

    with a_r = exp(-decay + i angle), decay > 0: stable by construction, |a_r| <= 1 - 1e-6. Where there is one input
    B = 1 and D is solved along; a matrix D keeps its values until the search is over. The search starts from the modes
    that the greedy elimination of `aire` keeps, or from balanced truncation, whichever is better with C and D solved
    again; where its end is not better still, the start is the result. The budget is shared out by the costs of that
    elimination.

    Attributes:
        horizon: `infinite`, or `sequence`: the lags up to the length of the sequences count.
        optimiser: `lbfgs` or `adam`.
        steps: at most; L-BFGS stops by itself.
        learning_rate: Adam's first, it decays to 0; L-BFGS has a line search.
        feedthrough: solve the diagonal D together with C; else D stays.
        unstable: `refuse` raises at a pole with |a| >= 1; `keep` splits it off and puts it back.

    Source: Sakamoto and Sato (arXiv 2507.10078), of which parametrisation, start and optimiser are not known; variable
    projection and starts are ours.
    """

    searches: ClassVar[bool] = True

    horizon: str = "infinite"
    optimiser: str = "lbfgs"
    steps: int = bounded(500, least=1)
    learning_rate: float = bounded(0.01, above=0)
    feedthrough: bool = True
    unstable: str = "keep"

    def __post_init__(self) -> None:
        choices = {"horizon": ("infinite", "sequence"), "optimiser": OPTIMISERS, "unstable": UNSTABLE}
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise unknown(f"value for reduction.{key}", getattr(self, key), allowed)
        if self.steps < 1 or self.learning_rate <= 0:
            raise UserError(
                f"reduction.steps={self.steps}, reduction.learning_rate={self.learning_rate:g}: at least one step and "
                "a positive rate are needed, such as steps=500 learning_rate=0.01."
            )

    def idle(self, weighed: bool) -> tuple[str, ...]:
        """Returns the options that change nothing as the others are set."""
        return ("learning_rate",) if self.optimiser == "lbfgs" else ()

    def solved(self, refit: Any) -> bool:
        """Returns whether the outputs are those of a refit already: least H2 error, over the same lags."""
        same = type(refit) is White and refit.horizon == self.horizon
        return same and (self.feedthrough or not refit.feedthrough)

    def fit(self, layers: Sequence[Layer], seed: int) -> Fitted:
        """Eliminates the modes and balances the systems of all layers.

        Raises:
            UserError: a parameter is not finite, or a step not positive.
        """
        check_finite(layers)
        check_steps(layers)
        return Search(self, layers)


class Candidates(NamedTuple):
    """Reduced systems on a leading axis.

    Attributes:
        systems: with their best outputs.
        left: squared H2 norm of the error of each; infinite instead of NaN.
    """

    systems: DiagonalSSM
    left: Float[Array, "systems"]


class Search:
    """A network's systems, flat: every channel of every layer is one of N systems of p slots."""

    def __init__(self, method: Method, layers: Sequence[Layer]) -> None:
        self._method, self._layers = method, list(layers)
        self._horizon = taps(method.horizon, self._layers[0])
        self._p = max(layer.system.state_dim for layer in layers)
        with jax.enable_x64(True):
            wide = stack([padded(dataclasses.replace(layer.system, bias=None), self._p) for layer in layers])
            self._batch = wide.Lambda.shape[:-1]
            self._full = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(self._batch) :]), wide)
            # One input, one output: D takes up lag 0 whatever the poles are, so that the search must not count it.
            free = method.feedthrough and self._full.D.shape[-1] == 1
            self._modal, self._targets, elimination = _prepared(self._full, horizon=self._horizon, lag_0=not free)
            modal = ModalSystem(*(np.asarray(x).reshape(*self._batch, *x.shape[1:]) for x in self._modal))
            self._realisation = realise(modal, unstable=method.unstable, axes=("layer", "channel"))
        self._elimination = np.asarray(elimination)
        ranked = -np.sort(-self._elimination.reshape(*self._batch, self._p))
        self.scores = [ranked[i, ..., : layer.system.state_dim] for i, layer in enumerate(layers)]

    def reduce(self, orders: Sequence[Int[np.ndarray, "*channels"]]) -> list[ReducedLayer]:
        """Searches all systems at their orders at once."""
        counts = np.stack([np.asarray(order) for order in orders]).ravel()
        # A power of two: a handful of programs serves all orders.
        width = min(1 << int(max(counts.max(), 1) - 1).bit_length(), self._p)
        with jax.enable_x64(True):
            start = _better(*(self._finished(s) for s in (self._modes(counts, width), self._balanced(counts, width))))
            end = _in_chunks(self._searched, self._targets, start[0])
            best, _ = _better(start, self._finished(end))
            best = jax.tree.map(lambda x: x.reshape(*self._batch, *x.shape[1:]), best)
            return [ReducedLayer(self._layer(best, i, int(max(np.max(order), 1)))) for i, order in enumerate(orders)]

    def _finished(self, reduced: DiagonalSSM) -> Candidates:
        """Returns systems with their best outputs."""
        found, left = best_outputs(
            self._full, reduced, white(self._full), horizon=self._horizon, feedthrough=self._method.feedthrough
        )
        return Candidates(found, jnp.where(jnp.isnan(left), jnp.inf, left))

    def _searched(self, targets: Target, starts: DiagonalSSM) -> DiagonalSSM:
        """Returns where the searches from these systems end."""
        method = self._method
        return _search(targets, starts, self._horizon, method.optimiser, method.steps, method.learning_rate)

    def _modes(self, counts: Int[np.ndarray, "systems"], width: int) -> DiagonalSSM:
        """Returns the modes that the elimination keeps."""
        place = np.argsort(np.argsort(-self._elimination, axis=1, kind="stable"), axis=1, kind="stable")
        return padded(kept(self._full, place < counts[:, None]), width)

    def _balanced(self, counts: Int[np.ndarray, "systems"], width: int) -> DiagonalSSM:
        """Returns what balanced truncation makes, with the layer's median step size."""
        least = np.maximum(self._realisation.unstable.sum(1), 1)
        found = truncate(self._realisation, np.maximum(counts, least).reshape(self._batch)).system
        log_a, B, C = (jnp.asarray(x.reshape(-1, *x.shape[len(self._batch) :])) for x in found[:3])
        some = jnp.asarray(counts > 0)[:, None, None]  # a channel may have lost all its slots
        Delta = jnp.broadcast_to(jnp.median(self._full.Delta, axis=-1, keepdims=True), log_a.shape)
        Lambda, B = _continuous(log_a, B * some, Delta, self._full.discretisation)
        C, C_backward = C * some, None
        if self._full.C_backward is not None:
            C, C_backward = jnp.split(C, 2, axis=1)
        new = dataclasses.replace(self._full, Lambda=Lambda, B=B, C=C, Delta=Delta, C_backward=C_backward)
        return padded(new, width)

    def _layer(self, best: DiagonalSSM, i: int, slots: int) -> DiagonalSSM:
        """Returns layer i without the slots that none of its channels uses."""
        one = jax.tree.map(lambda x: x[i], best)
        return dataclasses.replace(
            one,
            Lambda=one.Lambda[..., :slots],
            B=one.B[..., :slots, :],
            C=one.C[..., :slots],
            Delta=one.Delta[..., :slots],
            C_backward=None if one.C_backward is None else one.C_backward[..., :slots],
            bias=self._layers[i].system.bias,
        )


@partial(jax.jit, static_argnames=("horizon", "lag_0"))
def _prepared(
    full: DiagonalSSM, *, horizon: int | None, lag_0: bool
) -> tuple[ModalSystem, Target, Float[Array, "systems p"]]:
    """Returns what a search needs of every system: modal form, target (lag 0 counts or not) and elimination scores."""

    def target(system: DiagonalSSM) -> Target:
        parts = parts_of(system)
        return target_of(parts if lag_0 else parts._replace(weight=0 * parts.weight), horizon=horizon)

    return (
        jax.vmap(from_ssm)(full),
        # Not `jax.vmap`: several batched LAPACK calls in one program can block each other for ever (jaxlib 0.10, CPU).
        jax.lax.map(target, full),
        jax.vmap(partial(elimination_scores, horizon=horizon))(full),
    )


def _better(one: Candidates, other: Candidates) -> Candidates:
    """Returns the better of two candidates, system by system."""
    first = one.left <= other.left

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(first.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, one, other)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
@partial(jax.vmap, in_axes=(0, 0, None, None, None, None))
def _search(
    target: Target, system: DiagonalSSM, horizon: int | None, optimiser: str, steps: int, learning_rate: float
) -> DiagonalSSM:
    """Returns where the search from one system ends, the outputs of the slots that took part left at zero.

    Args:
        target: the full system.
        system: the start.
        horizon: number of lags that count, or None for all.
        optimiser: passed to `descend`.
        steps: at most.
        learning_rate: passed to `descend`.
    """
    log_a, B, _, _ = from_ssm(system)
    start = Start(log_a, B @ target.basis, (log_a.real < 0) & jnp.any(B != 0, axis=1))
    found = descend(
        lambda at_: squared_error(*at(at_, start), target, horizon=horizon),
        variables(start), optimiser=optimiser, evaluations=steps, learning_rate=learning_rate,
    )  # fmt: skip
    new_log_a, new_B = at(found.parameters, start)
    Lambda, B = undo_discretise(
        jnp.where(start.free, new_log_a, log_a),
        jnp.where(start.free[:, None], new_B @ target.basis.T, B),
        system.Delta,
        system.discretisation,
    )
    C = jnp.where(start.free, 0, system.C)
    C_backward = None if system.C_backward is None else jnp.where(start.free, 0, system.C_backward)
    return dataclasses.replace(system, Lambda=Lambda, B=B, C=C, C_backward=C_backward)


def _continuous(log_a: Array, B: Array, Delta: Array, discretisation: str) -> tuple[Array, Array]:
    return jax.vmap(partial(undo_discretise, discretisation=discretisation))(log_a, B, Delta)


def _in_chunks(function: Callable[..., Any], *systems: Any) -> Any:
    """Applies a function of batches of systems to at most `CHUNK` of them at once."""
    count = jax.tree.leaves(systems)[0].shape[0]
    found = [function(*jax.tree.map(lambda x: x[i : i + CHUNK], systems)) for i in range(0, count, CHUNK)]  # noqa: B023
    return found[0] if len(found) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *found)
