"""What a reduction method and an allocation are, and how they are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from s5c import lookup
from s5c.reduction import allocation as allocations
from s5c.reduction import method as methods
from s5c.reduction import refit as refits
from s5c.reduction.layer import Layer
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float, Int

Priority = Callable[[Float[Array, "p"]], Float[Array, "p"]]
"""Scores in descending order -> priorities, non-increasing, comparable between layers."""


class Allocation(NamedTuple):
    """How the scores of different layers are made comparable.

    Attributes:
        priority: turns the scores of one competition into priorities.
        per_channel: the competition is a channel, not a layer; no difference where a layer is one system.
    """

    priority: Priority
    per_channel: bool = False


@runtime_checkable
class Selection(Protocol):
    """A method that keeps some states and removes the others.

    `scores` is pure, traceable and called in float64 on one system at a time (a layer, or one of its channels, with the
    layer's other facts): the larger, the more worth keeping; `jnp.inf` means "never remove". `key` is a random key,
    different for every system. A method that needs calibration data has an attribute `needs_moments` that is true.
    """

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns one score per stored state."""
        ...


class ReducedLayer(NamedTuple):
    """One layer after a projection.

    Attributes:
        system: it has as many slots as its largest channel was given; empty slots (B = C = 0) come last.
        bound: upper bound of the H-infinity error (of the worst channel), None where none is known.
        notes: what the user should know, in sentences.
    """

    system: DiagonalSSM
    bound: float | None = None
    notes: tuple[str, ...] = ()


@runtime_checkable
class Fitted(Protocol):
    """A projection that has seen the network: every order of every layer can be asked for.

    Attributes:
        scores: per layer, shape (p,) or (channels, p), NumPy: what slot k = 1, ..., p adds, never rising with k. The
            budget is shared out by them as by the scores of states.
    """

    scores: list[Float[np.ndarray, "..."]]

    def reduce(self, orders: Sequence[Int[np.ndarray, "*channels"]]) -> list[ReducedLayer]:
        """Returns every layer at its order, in stored slots (one number, or one per channel)."""
        ...


@runtime_checkable
class OfQuadraticOutputs(Protocol):
    """A fitted projection that minimises the h2 error of the layers with their gates, as systems of quadratic outputs.

        ||S - S_r|| / ||S||    (`s5c.reduction.quadratic.relative_error`)

    Attributes:
        errors: per layer, that error with 0, ..., p slots left, of the systems that the budget is shared out by.
    """

    errors: list[Float[np.ndarray, "orders"]]

    def errors_of(self, reduced: Sequence[DiagonalSSM]) -> list[float]:
        """Returns that error of any systems in place of the layers'."""
        ...


@runtime_checkable
class Projection(Protocol):
    """A method that makes new, smaller systems instead of keeping states."""

    def fit(self, layers: Sequence[Layer], seed: int) -> Fitted:
        """Prepares all layers, once for all orders; `seed` feeds methods that draw random numbers."""
        ...


@runtime_checkable
class Masking(Protocol):
    """A baseline that silences single parameters and removes no state: nothing gets smaller or faster."""

    def mask(self, system: DiagonalSSM, ratio: Float[Array, ""], key: Array) -> DiagonalSSM:
        """Returns the system with the share `ratio` of its parameters set to zero."""
        ...


@runtime_checkable
class Fresh(Protocol):
    """A start from scratch at a smaller size: the sequence layers' parameters are drawn again.

    Attributes:
        ranking: the selection that, with the allocation, decides how many states each layer gets.
    """

    @property
    def ranking(self) -> Selection: ...


@runtime_checkable
class Refit(Protocol):
    """Solves the outputs of a reduced layer again; its poles and inputs stay.

    Attributes:
        needs_moments: `layer.moments` must hold those of the reduced layer's states, with the full layer's output.
    """

    needs_moments: ClassVar[bool]

    def __call__(self, layer: Layer, reduced: DiagonalSSM) -> DiagonalSSM:
        """Returns the reduced layer with other C, D and bias.

        Args:
            layer: the full layer.
            reduced: what a method made of it, double precision.
        """
        ...


Method = Selection | Projection | Masking | Fresh
"""A method may also have `idle(weighed)` and `solved(refit)`: what changes nothing beside it (CONTRIBUTING.md)."""


class Traits(NamedTuple):
    """What a method is known to be. Each is an attribute of `Method`, a `ClassVar` or a property, where it is not so.

    Tests ask for them and hold every method to what it says, so that a new one needs no exemption by name.

    Attributes:
        depends_on: parts of a state that its score looks at, of "poles", "inputs" and "outputs". Scores rise with what
            they look at of B and C and are the same whatever the rest is. None: nothing is said.
        draws_numbers: the seed decides the result.
        eliminates: the score of a state depends on the others; of equal states one is worth nothing.
        keeps_all: no state is ever removed.
        invariant: the coordinates of the states, B times s and C over s, do not matter.
        protects_unstable: a mode that is not stable scores infinity. A method with an option `unstable` need not say
            so: with `unstable: protect` it has to.
        searches: it runs an optimiser, which takes long to compile.
        mixes_channels: it reduces layers that are one system, not channels that are systems of their own.
    """

    depends_on: frozenset[str] | None = None
    draws_numbers: bool = False
    eliminates: bool = False
    keeps_all: bool = False
    invariant: bool = True
    protects_unstable: bool = False
    searches: bool = False
    mixes_channels: bool = False


def traits(method: Method) -> Traits:
    """Returns what a method says of itself, and the defaults for what it does not."""
    found: dict[str, Any] = {name: getattr(method, name, usual) for name, usual in Traits._field_defaults.items()}
    return Traits(**found)


def method_names() -> list[str]:
    """Returns the names of the methods that are found (`s5c.lookup`)."""
    return lookup.names(methods)


def allocation_names() -> list[str]:
    """Returns the names of the allocations that are found."""
    return lookup.names(allocations)


def method_class(name: str) -> type[Any]:
    """Imports a method by its name.

    Raises:
        UserError: there is none of that name, or its file is incomplete.
    """
    return lookup.schema(methods, "reduction method", name, "Method", ("scores", "fit", "mask", "ranking"))


def load_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Returns a method made from its options."""
    return method_class(name)(**(options or {}))


def load_allocation(name: str) -> Allocation:
    """Returns an allocation by its name.

    Raises:
        UserError: there is none of that name, or its file is incomplete.
    """
    module = lookup.load(allocations, "allocation", name, ("priority",))
    return Allocation(module.priority, getattr(module, "PER_CHANNEL", False))


def refit_names() -> list[str]:
    """Returns the names of the refits that are found."""
    return lookup.names(refits)


def load_refit(name: str) -> type[Any]:
    """Imports a refit by its name.

    Raises:
        UserError: there is none of that name, or its file is incomplete.
    """
    return lookup.schema(refits, "refit", name, "Refit", ("__call__",))
