"""How many parameters a network stores at every cut of a removal order."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from s5c.errors import UserError
from s5c.reduction.stage import Ranking, Selected, check_fraction, cut
from s5c.types import Int


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The stored real parameters of a network, as a function of how many states its arrays have room for.

        stored = rest + sum_l width_l per_state_l

    A layer with one system is as wide as it has states. Channels (S4D, DSS) share rectangular arrays: those that keep
    fewer states than the widest of their layer are filled up, and what fills them is stored and counts.

    Attributes:
        total: number of parameters of the whole network before the reduction.
        rest: number of parameters that belong to no state, after the reduction.
        per_state: per layer, those of one state, of all channels together.
        own_poles: the same once every channel has poles of its own, in a network whose channels share theirs; None if
            that cannot come to pass. From then on it holds in all layers.
        new_poles: channels get poles of their own with the first state removed, and not only where they keep different
            states.
    """

    total: int
    rest: int
    per_state: tuple[int, ...]
    own_poles: tuple[int, ...] | None = None
    new_poles: bool = False

    def removed(self, stored: int) -> float:
        """Returns the share of all parameters that is gone where `stored` are left."""
        return 1 - stored / self.total

    def at_every_cut(self, ranking: Ranking) -> Int[np.ndarray, "cuts"]:
        """Returns the parameters stored with the first 0, 1, ..., n slots of the removal order kept.

        Args:
            ranking: ranking of the network before the reduction.
        """
        count = len(ranking.order)
        shared, own, split = np.full(count + 1, self.rest), np.full(count + 1, self.rest), np.zeros(count + 1, int)
        for layer, (scores, width) in enumerate(zip(ranking.scores, self.widths(ranking), strict=True)):
            shared += width * self.per_state[layer]
            if self.own_poles is not None:
                own += width * self.own_poles[layer]
                # A state that some channels keep and others do not: it starts with the first and ends with the last.
                joins, slots = _joining(ranking, layer)
                kept_by = _occurrence(slots % scores.shape[-1])
                change = np.zeros(count + 1, int)
                change[joins + 1] = (kept_by == 1).astype(int) - (kept_by == scores.size // scores.shape[-1])
                split += np.cumsum(change)
        if self.own_poles is None:
            return shared
        return np.where(np.arange(count + 1) < count if self.new_poles else split > 0, own, shared)

    def widths(self, ranking: Ranking) -> list[Int[np.ndarray, "cuts"]]:
        """Returns, per layer, the states that its arrays have room for at every cut; arguments as `at_every_cut`."""
        found = []
        for layer, scores in enumerate(ranking.scores):
            joins, slots = _joining(ranking, layer)
            width = np.zeros(len(ranking.order) + 1, int)
            of_channel = _occurrence(slots // scores.shape[-1])
            width[joins + 1] = np.diff(np.maximum.accumulate(of_channel), prepend=0)
            found.append(np.cumsum(width))
        return found


def check_share(share: float) -> float:
    """Returns `share`, or raises `UserError` unless 0 <= share < 1."""
    return check_fraction(
        share,
        f"reduction.params={share:g}: the share of all trainable parameters to remove lies in [0, 1); for instance "
        "reduction.params=0.6 removes 60 % of them.",
    )


def select_parameters(ranking: Ranking, share: float, parameters: Parameters) -> Selected:
    """Cuts the removal order where at least a share of all parameters is gone, and no later.

    Args:
        ranking: what `s5c.reduction.stage.rank` returned.
        share: share of the parameters of the whole network, in [0, 1).
        parameters: parameters of that network.

    Raises:
        UserError: the share is out of range, or the states that may go do not hold so many parameters.
    """
    stored = parameters.at_every_cut(ranking)
    least = max(ranking.protected, 1)
    allowed = math.floor((1 - check_share(share)) * parameters.total + 1e-9)
    fitting = np.flatnonzero(stored[least:] <= allowed)
    if len(fitting):
        return cut(ranking, least + int(fitting[-1]))
    smallest = int(stored[least:].min())
    said = (
        f"reduction.params={share:g} cannot be reached: the smallest network that this reduction makes has {smallest:,}"
    )
    if smallest > parameters.total:
        raise UserError(f"{said} parameters, more than the {parameters.total:,} before it. Reduce by reduction.ratio.")
    # Rounded down, so that what is proposed can be reached.
    largest = math.floor(1e4 * parameters.removed(smallest)) / 1e4
    raise UserError(
        f"{said} of {parameters.total:,} parameters, since only states are removed, and one of every layer "
        f"and all that are protected stay. The largest share is {largest:g}: reduction.params={largest:g}."
    )


def _joining(ranking: Ranking, layer: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Returns the cuts at which one more slot of a layer stays, and which slot that is."""
    layers = np.repeat(np.arange(len(ranking.slots)), ranking.slots)[ranking.order]
    joins = np.flatnonzero(layers == layer)
    return joins, np.concatenate([np.arange(n) for n in ranking.slots])[ranking.order][joins]


def _occurrence(values: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Returns of every entry how often its value has come so far: 1 the first time."""
    by_value = np.argsort(values, kind="stable")
    ranked = values[by_value]
    first = np.searchsorted(ranked, ranked)
    found = np.empty(len(values), int)
    found[by_value] = np.arange(len(values)) - first + 1
    return found
