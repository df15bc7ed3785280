"""The reduction stage: scores -> priorities -> one removal order for the whole network -> the states that stay.

Scores and order are one jit-compiled float64 computation whose shapes do not depend on the ratio: it is compiled once
for a network and serves every ratio; the budget only says where to cut.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError
from s5c.reduction.contract import Masking, Priority, Selection
from s5c.ssm.system import DiagonalSSM, stack
from s5c.types import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Ranking:
    """All that a selection method says about a network; every ratio is a cut through `order`.

    Attributes:
        scores: per layer, one score per stored state.
        priorities: per layer, comparable between layers; infinite for states that must stay.
        order: all states, as positions in the concatenation of the layers, most important first.
    """

    scores: list[Float[np.ndarray, "_p"]]
    priorities: list[Float[np.ndarray, "_p"]]
    order: Int[np.ndarray, "states"]

    @property
    def state_dims(self) -> list[int]:
        """Stored states of each layer before the reduction."""
        return [len(scores) for scores in self.scores]


@dataclasses.dataclass(frozen=True)
class Selected:
    """The states that stay at one ratio.

    Attributes:
        keep: per layer, which states stay.
        ratio: fraction of stored states asked to be removed, network-wide.
        notes: what the user should know (protected states, ratio not reached).
    """

    keep: list[Bool[np.ndarray, "_p"]]
    ratio: float
    notes: tuple[str, ...] = ()

    @property
    def orders(self) -> list[int]:
        """States kept per layer."""
        return [int(mask.sum()) for mask in self.keep]

    @property
    def ratio_achieved(self) -> float:
        """Fraction of stored states really removed."""
        return 1 - sum(self.orders) / sum(len(mask) for mask in self.keep)


def check_ratio(ratio: float) -> float:
    """Returns `ratio`, or raises `UserError` unless 0 <= ratio < 1."""
    if not 0 <= ratio < 1:
        raise UserError(
            f"reduction.ratio={ratio:g}: the ratio is the fraction of stored states removed over the whole network and "
            "must lie in [0, 1); for instance reduction.ratio=0.5 removes half of them."
        )
    return ratio


def budget(ratio: float, states: int, layers: int) -> int:
    """Returns how many of `states` stay: K = states - floor(ratio states + 1e-9), at least one per layer."""
    return max(states - math.floor(check_ratio(ratio) * states + 1e-9), layers)


def rank(method: Selection, priority: Priority, systems: Sequence[DiagonalSSM], *, seed: int) -> Ranking:
    """Scores and orders all states of a network.

    Args:
        method: scores the states of one layer.
        priority: makes the scores of different layers comparable.
        systems: one system per layer, double precision.
        seed: of the random stream; layer l draws from `fold_in(key, l)`.

    Returns:
        The ranking. Ties are broken by (layer, index), lower first. The best state of every layer and every state of
        infinite score come first of all.
    """
    with jax.enable_x64(True):
        scores, priorities, order = _rank(method, priority, list(systems), jax.random.key(seed))
        return Ranking([np.asarray(s) for s in scores], [np.asarray(p) for p in priorities], np.asarray(order))


@partial(jax.jit, static_argnums=(0, 1))
def _rank(
    method: Selection, priority: Priority, systems: list[DiagonalSSM], key: Array
) -> tuple[list[Array], list[Array], Array]:
    keys = [jax.random.fold_in(key, layer) for layer in range(len(systems))]

    def one(system: DiagonalSSM, layer_key: Array) -> tuple[Array, Array]:
        scores = method.scores(system, layer_key)
        return scores, _priorities(scores, priority)

    if len({(s.B.shape, s.C_backward is None, s.discretisation) for s in systems}) == 1:
        scores, priorities = map(list, jax.vmap(one)(stack(systems), jnp.stack(keys)))
    else:
        scores, priorities = map(list, zip(*map(one, systems, keys), strict=True))
    return scores, priorities, jnp.argsort(-jnp.concatenate(priorities), stable=True)


def _priorities(scores: Float[Array, "p"], priority: Priority) -> Float[Array, "p"]:
    by_rank = jnp.argsort(-scores, stable=True)
    ranked = scores[by_rank]
    protected = jnp.isinf(ranked)
    # A state that must stay does not dwarf the others: they compete as if it were not there.
    by_score = priority(jnp.where(protected, 0, ranked))
    first = jnp.arange(ranked.shape[0]) == 0
    return jnp.zeros_like(scores).at[by_rank].set(jnp.where(protected | first, jnp.inf, by_score))


def select(ranking: Ranking, ratio: float) -> Selected:
    """Cuts the removal order at a ratio.

    Args:
        ranking: of `rank`.
        ratio: fraction of stored states to remove, network-wide, in [0, 1).

    Returns:
        The states that stay: exactly `budget(...)` of them, unless more are protected by an infinite score.

    Raises:
        UserError: the ratio is outside [0, 1).
    """
    dims = ranking.state_dims
    asked = budget(ratio, sum(dims), len(dims))
    protected = sum(int(np.isinf(scores).sum()) for scores in ranking.scores)
    must_stay = sum(int(np.isinf(priorities).sum()) for priorities in ranking.priorities)
    kept = max(asked, must_stay)
    keep = np.zeros(sum(dims), dtype=bool)
    keep[ranking.order[:kept]] = True
    notes: list[str] = []
    if 0 < protected < sum(dims):
        where = [f"layer {i}: {n}" for i, s in enumerate(ranking.scores) if (n := int(np.isinf(s).sum()))]
        notes.append(f"{protected} unstable modes (|Lambda_bar| >= 1) are never removed ({', '.join(where)}).")
    if kept > asked:
        notes.append(f"ratio {ratio:g} asks for {asked} states, {kept} are protected and stay.")
    return Selected(np.split(keep, np.cumsum(dims)[:-1]), ratio, tuple(notes))


def mask(method: Masking, systems: Sequence[DiagonalSSM], ratio: float, *, seed: int) -> list[DiagonalSSM]:
    """Applies a masked-only baseline to every layer; shapes stay.

    Args:
        method: silences single parameters.
        systems: one system per layer, double precision.
        ratio: share of the parameters to silence.
        seed: of the random stream.
    """
    with jax.enable_x64(True):
        share, root = jnp.asarray(check_ratio(ratio)), jax.random.key(seed)
        keys = [jax.random.fold_in(root, layer) for layer in range(len(systems))]
        return [_mask(method, system, share, key) for system, key in zip(systems, keys, strict=True)]


@partial(jax.jit, static_argnums=0)  # compiled once for all layers of one shape
def _mask(method: Masking, system: DiagonalSSM, ratio: Float[Array, ""], key: Array) -> DiagonalSSM:
    return method.mask(system, ratio, key)
