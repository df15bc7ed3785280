"""What a reduction method and an allocation are, and how they are found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from s5c.errors import unknown
from s5c.reduction import allocation as allocations
from s5c.reduction import method as methods
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float

Priority = Callable[[Float[Array, "p"]], Float[Array, "p"]]
"""Scores of one layer in descending order -> priorities, non-increasing, comparable between layers."""


@runtime_checkable
class Selection(Protocol):
    """A method that keeps some states and removes the others.

    `scores` is pure, traceable and called in float64 on one layer at a time: the larger, the more worth keeping;
    `jnp.inf` means "never remove". `key` is a random key, different for every layer.
    """

    def scores(self, system: DiagonalSSM, key: Array) -> Float[Array, "p"]:
        """Returns one score per stored state."""
        ...


@runtime_checkable
class Masking(Protocol):
    """A baseline that silences single parameters and removes no state: nothing gets smaller or faster."""

    def mask(self, system: DiagonalSSM, ratio: Float[Array, ""], key: Array) -> DiagonalSSM:
        """Returns the system with the share `ratio` of its parameters set to zero."""
        ...


def _found(package: Any) -> list[str]:
    # A trailing underscore keeps Python's keywords usable as names: global_.py is "global".
    return sorted(module.name.rstrip("_") for module in pkgutil.iter_modules(package.__path__))


def method_names() -> list[str]:
    """Returns the methods found in `s5c/reduction/method`."""
    return _found(methods)


def allocation_names() -> list[str]:
    """Returns the allocations found in `s5c/reduction/allocation`."""
    return _found(allocations)


def _module(package: Any, kind: str, name: str) -> Any:
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.rstrip("_") == name:
            return importlib.import_module(f"{package.__name__}.{module.name}")
    raise unknown(kind, name, _found(package))


def method_class(name: str) -> type[Any]:
    """Imports a method by its name.

    Raises:
        UserError: there is none of that name.
    """
    return _module(methods, "reduction method", name).Method


def load_method(name: str, options: Mapping[str, Any] | None = None) -> Selection | Masking:
    """Returns a method made from its options."""
    return method_class(name)(**(options or {}))


def load_allocation(name: str) -> Priority:
    """Returns an allocation's `priority` function.

    Raises:
        UserError: there is none of that name.
    """
    return _module(allocations, "allocation", name).priority
