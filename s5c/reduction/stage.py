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
from s5c.reduction.contract import Allocation, Fitted, Masking, OfQuadraticOutputs, Priority, Projection, Selection
from s5c.reduction.layer import Layer, check_finite, stack
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Ranking:
    """All that a method says about a network; every ratio is a cut through `order`.

    Attributes:
        scores: per layer, one score per stored slot, shape (p,) or (channels, p).
        priorities: per layer, comparable between layers; infinite for slots that must stay.
        order: all slots, as positions in the concatenation of the flattened layers, most important first.
        errors: per layer, the relative error that a projection minimises with 0, ..., p slots left, if it tells.
    """

    scores: list[Float[np.ndarray, "..."]]
    priorities: list[Float[np.ndarray, "..."]]
    order: Int[np.ndarray, "states"]
    errors: list[Float[np.ndarray, "..."]] | None = None

    @property
    def slots(self) -> list[int]:
        """Stored slots of each layer before the reduction, all channels together."""
        return [scores.size for scores in self.scores]

    @property
    def protected(self) -> int:
        """How many slots must stay: they come first in `order`."""
        return sum(int(np.isinf(priorities).sum()) for priorities in self.priorities)


@dataclasses.dataclass(frozen=True)
class Selected:
    """The slots that stay at one target.

    Attributes:
        keep: per layer, which slots stay, shape (p,) or (channels, p).
        notes: what the user should know (protected states, ratio not reached).
    """

    keep: list[Bool[np.ndarray, "..."]]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> list[Int[np.ndarray, "*channels"]]:
        """Slots kept per system: one number per layer, or one per channel."""
        return [np.asarray(mask.sum(-1)) for mask in self.keep]

    @property
    def orders(self) -> list[int]:
        """Slots kept per layer, all channels together."""
        return [int(mask.sum()) for mask in self.keep]

    @property
    def ratio_achieved(self) -> float:
        """Fraction of stored slots really removed."""
        return 1 - sum(self.orders) / sum(mask.size for mask in self.keep)


def check_fraction(value: float, message: str) -> float:
    """Returns `value`, or raises `UserError` with the message unless 0 <= value < 1."""
    if not 0 <= value < 1:
        raise UserError(message)
    return value


def check_ratio(ratio: float) -> float:
    """Returns `ratio`, or raises `UserError` unless 0 <= ratio < 1."""
    return check_fraction(
        ratio,
        f"reduction.ratio={ratio:g}: the ratio is the fraction of stored states removed over the whole network and "
        "must lie in [0, 1); for instance reduction.ratio=0.5 removes half of them.",
    )


def check_tolerance(tolerance: float) -> float:
    """Returns `tolerance`, or raises `UserError` unless 0 <= tolerance < 1."""
    return check_fraction(
        tolerance,
        f"reduction.tolerance={tolerance:g}: the share of the scores that may be lost in a layer lies in [0, 1); for "
        "instance reduction.tolerance=0.05.",
    )


def budget(ratio: float, states: int, layers: int) -> int:
    """Returns how many of `states` stay at a ratio, at least one per layer.

        K = max(floor((1 - ratio) states + 1e-9), layers)

    What stays is rounded down to whole states, of 128 to 6 at ratio 0.95, as in the code of LAST, which keeps
    int(M (100 - r) / 100) of M states at whole percents r, and in that of AIRE-Prune. The 1e-9 keeps an error in the
    last digit of a ratio from costing a state.

    Source: released code of LAST (arXiv 2411.02824) and AIRE-Prune (arXiv 2602.00534).
    """
    return max(math.floor((1 - check_ratio(ratio)) * states + 1e-9), layers)


def rank(
    method: Selection | Projection,
    allocation: Allocation,
    layers: Sequence[Layer],
    *,
    seed: int,
    fitted: Fitted | None = None,
) -> Ranking:
    """Scores and orders all slots of a network.

    Args:
        method: scores the states of one system, or is fitted to the network.
        allocation: makes the scores of different layers comparable.
        layers: double precision.
        seed: seeds the random stream; layer l draws from `fold_in(key, l)`.
        fitted: what a projection's `fit` returned, if it has been called already.

    Returns:
        The ranking. Ties are broken by (layer, index), lower first. The best slot of every layer (of every competition,
        with an allocation per channel) and every slot of infinite score come first of all.

    Raises:
        UserError: a parameter is not finite.
    """
    check_finite(layers)
    with jax.enable_x64(True):
        if isinstance(method, Selection):
            scores = [np.asarray(s) for s in _scores(method, list(layers), jax.random.key(seed))]
        else:
            fitted = fitted or method.fit(layers, seed)
            scores = [np.asarray(s) for s in fitted.scores]
    errors = fitted.errors if isinstance(fitted, OfQuadraticOutputs) else None
    return dataclasses.replace(_ranked(scores, allocation), errors=errors)


def weighed(ranking: Ranking, allocation: Allocation, weights: Sequence[float]) -> Ranking:
    """Returns the ranking of scores multiplied by one positive number per layer.

    An allocation that does not see a layer's scale (`normalised`, `tolerance`, `uniform`) is not changed by them.

    Args:
        ranking: what `rank` returned.
        allocation: the same as then.
        weights: one per layer.
    """
    return rescored(ranking, allocation, [w * scores for w, scores in zip(weights, ranking.scores, strict=True)])


def rescored(ranking: Ranking, allocation: Allocation, scores: list[Float[np.ndarray, "..."]]) -> Ranking:
    """Returns the ranking by other scores of the same states."""
    return dataclasses.replace(_ranked(scores, allocation), errors=ranking.errors)


def _ranked(scores: list[Float[np.ndarray, "..."]], allocation: Allocation) -> Ranking:
    with jax.enable_x64(True):
        priorities = [np.asarray(p) for p in _allocate(allocation, scores)]
    return Ranking(scores, priorities, np.argsort(-np.concatenate([p.ravel() for p in priorities]), kind="stable"))


@partial(jax.jit, static_argnums=0)
def _scores(method: Selection, layers: list[Layer], key: Array) -> list[Array]:
    keys = [jax.random.fold_in(key, i) for i in range(len(layers))]

    def one(layer: Layer, layer_key: Array) -> Array:
        if layer.channels is None:
            return method.scores(layer, layer_key)
        # The gate mixes the channels and belongs to none of them.
        alone = dataclasses.replace(layer, gate=None)
        return jax.vmap(method.scores)(alone, jax.random.split(layer_key, layer.channels))

    shapes = {tuple((x.shape, x.dtype) for x in jax.tree.leaves(layer)) for layer in layers}
    if len(shapes) == 1 and len({jax.tree.structure(layer) for layer in layers}) == 1:
        return list(jax.vmap(one)(stack(layers), jnp.stack(keys)))
    return [one(layer, key) for layer, key in zip(layers, keys, strict=True)]


@partial(jax.jit, static_argnums=0)
def _allocate(allocation: Allocation, scores: list[Array]) -> list[Array]:
    def one(scores: Array) -> Array:
        if scores.ndim == 2 and allocation.per_channel:
            return jax.vmap(lambda s: _priorities(s, allocation.priority))(scores)
        return _priorities(scores.ravel(), allocation.priority).reshape(scores.shape)

    return [one(s) for s in scores]


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
        ranking: what `rank` returned.
        ratio: fraction of stored slots to remove, network-wide, in [0, 1).

    Returns:
        The slots that stay: exactly `budget(...)` of them, unless more are protected.

    Raises:
        UserError: the ratio is outside [0, 1).
    """
    total = sum(ranking.slots)
    asked = budget(ratio, total, len(ranking.slots))
    kept = max(asked, ranking.protected)
    selected = cut(ranking, kept)
    if kept == asked:
        return selected
    note = f"ratio {ratio:g} asks for {asked} states, {kept} are protected and stay."
    return dataclasses.replace(selected, notes=(*selected.notes, note))


def cut(ranking: Ranking, kept: int) -> Selected:
    """Returns the first `kept` slots of the removal order as those that stay."""
    keep = np.zeros(len(ranking.order), dtype=bool)
    keep[ranking.order[:kept]] = True
    parts = np.split(keep, np.cumsum(ranking.slots)[:-1])
    masks = [part.reshape(s.shape) for part, s in zip(parts, ranking.scores, strict=True)]
    return Selected(masks, tuple(_protected(ranking)))


def shortfall(ratio: float, selected: Selected) -> list[str]:
    """Returns what to say where less was removed than asked for, by a whole state or more.

    Args:
        ratio: asked for.
        selected: what stays.
    """
    slots = sum(mask.size for mask in selected.keep)
    if (ratio - selected.ratio_achieved) * slots < 1 - 1e-6:
        return []
    return [
        f"ratio {ratio:g} was asked for and {selected.ratio_achieved:.3g} is reached: {slots} states become "
        f"{sum(selected.orders)}, since at least one of every layer stays, and all that are protected."
    ]


def select_orders(ranking: Ranking, orders: Sequence[int]) -> Selected:
    """Keeps the best slots of every system, a given number per layer.

    Args:
        ranking: what `rank` returned.
        orders: slots per layer; of every channel where a layer has channels.

    Raises:
        UserError: an order outside of 1 to the present one, or not one per layer.
    """
    present = [scores.shape[-1] for scores in ranking.scores]
    if len(orders) != len(present) or any(not 1 <= r <= p for r, p in zip(orders, present, strict=False)):
        raise UserError(
            f"reduction.order={list(orders)}: the layers have {present} stored states{_per_channel(ranking)}; give one "
            "number per layer, or one for all, from 1 to what is there."
        )
    return Selected(
        [_best(s, np.full(s.shape[:-1], r)) for s, r in zip(ranking.scores, orders, strict=True)],
        tuple(_protected(ranking)),
    )


def select_tolerance(ranking: Ranking, tolerance: float) -> Selected:
    """Keeps, in every system, the fewest slots whose removed scores add up to at most a share of all.

        sum_{i removed} h_i <= tolerance sum_i h_i

    Args:
        ranking: what `rank` returned.
        tolerance: share of the summed scores that may be lost, in [0, 1). With Hankel singular values as scores this is
            half the error bound relative to its value at order 0.

    Raises:
        UserError: the tolerance is out of range.
    """
    check_tolerance(tolerance)

    def counts(scores: Float[np.ndarray, "..."]) -> Int[np.ndarray, "*channels"]:
        finite = np.where(np.isinf(scores), 0, np.maximum(scores, 0))  # a negative score costs nothing
        ranked = -np.sort(-finite, axis=-1)
        tails = np.cumsum(ranked[..., ::-1], axis=-1)[..., ::-1]
        needed = (tails > tolerance * tails[..., :1] * (1 + 1e-12)).sum(-1) + np.isinf(scores).sum(-1)
        return np.asarray(np.clip(needed, 1, scores.shape[-1]))

    return Selected([_best(s, counts(s)) for s in ranking.scores], tuple(_protected(ranking)))


def _best(scores: Float[np.ndarray, "..."], counts: Int[np.ndarray, "*channels"]) -> Bool[np.ndarray, "..."]:
    """Marks the `counts` highest scores along the last axis, and every infinite one."""
    by_rank = np.argsort(-scores, axis=-1, kind="stable")
    place = np.argsort(by_rank, axis=-1, kind="stable")
    return (place < np.asarray(counts)[..., None]) | np.isinf(scores)


def _per_channel(ranking: Ranking) -> str:
    return " per channel" if ranking.scores[0].ndim == 2 else ""


def _protected(ranking: Ranking) -> list[str]:
    counts = [int(np.isinf(scores).sum()) for scores in ranking.scores]
    if not 0 < sum(counts) < sum(ranking.slots):
        return []
    where = [f"layer {i}: {n}" for i, n in enumerate(counts) if n]
    return [f"{sum(counts)} unstable modes (|Lambda_bar| >= 1) are never removed ({', '.join(where)})."]


def mask(method: Masking, systems: Sequence[DiagonalSSM], ratio: float, *, seed: int) -> list[DiagonalSSM]:
    """Applies a masked-only baseline to every layer; shapes stay.

    Args:
        method: silences single parameters.
        systems: one system per layer, double precision.
        ratio: share of the parameters to silence.
        seed: seeds the random stream.

    Raises:
        UserError: a parameter is not finite.
    """
    check_finite([Layer(system) for system in systems])
    with jax.enable_x64(True):
        share, root = jnp.asarray(check_ratio(ratio)), jax.random.key(seed)
        keys = [jax.random.fold_in(root, layer) for layer in range(len(systems))]
        return [_mask(method, system, share, key) for system, key in zip(systems, keys, strict=True)]


@partial(jax.jit, static_argnums=0)  # compiled once for all layers of one shape
def _mask(method: Masking, system: DiagonalSSM, ratio: Float[Array, ""], key: Array) -> DiagonalSSM:
    if system.Lambda.ndim == 1:
        return method.mask(system, ratio, key)
    return jax.vmap(method.mask, in_axes=(0, None, 0))(system, ratio, jax.random.split(key, len(system.Lambda)))
