"""Static description of a model: what a checkpoint must carry besides its arrays."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

from s5c import lookup
from s5c.errors import UserError, bounded, unknown
from s5c.model import family
from s5c.model.inputs import ADDED_LATER, without_later
from s5c.ssm.convolution import SISO_BACKENDS
from s5c.ssm.operator import available_backends
from s5c.ssm.precision import PRECISIONS

ACTIVATIONS = ("gelu", "half_glu1", "half_glu2", "full_glu", "lqo", "geglu")


def one_of(key: str, given: str, allowed: Sequence[str]) -> None:
    """Raises `UserError` unless `given` is among `allowed`."""
    if given not in allowed:
        raise unknown(f"value for model.{key}", given, allowed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(abc.ABC):
    """What every family shares: depth, width and the block around the sequence layer.

    Attributes:
        n_layers: number of blocks.
        d_model: features H.
        activation: gelu | half_glu1 | half_glu2 | full_glu | lqo | geglu (see `s5c.model.block`).
        prenorm: normalise before the sequence layer (True) or after the residual sum.
        norm: batch | layer.
        gelu: tanh (Flax's formula, as in the published S5) | exact (v Phi(v), as in PyTorch).
        layer_eps: added to the variance by layer normalisation; Flax has 1e-6, PyTorch 1e-5.
        bn_momentum: weight of the old running statistics.
        dropout: rate; one mask per example and feature, shared over time.
        pooling: mean (over the valid steps) | last.
        backend: implementation of the sequence operator, "auto" or a name.
        precision: precision of all matrix products, float32 | tf32 | bfloat16; everything else is float32
            (`s5c.ssm.precision`).
        remat: keep only the input of every block in training and run the block again in its derivative.
        mask_padding: padded steps enter neither a state nor a statistic, so that no answer depends on them.
    """

    family: ClassVar[str] = ""
    per_channel: ClassVar[bool] = False
    """Every feature has a single-input, single-output system of its own, instead of one system for all features."""

    n_layers: int
    d_model: int
    activation: str = "half_glu1"
    prenorm: bool = True
    norm: str = "batch"
    bn_momentum: float = bounded(0.95, least=0, most=1)
    dropout: float = 0.0
    pooling: str = "mean"
    backend: str = "auto"
    precision: str = "tf32"
    remat: bool = False
    mask_padding: bool = ADDED_LATER["mask_padding"]
    gelu: str = ADDED_LATER["gelu"]
    layer_eps: float = bounded(ADDED_LATER["layer_eps"], above=0)

    def __post_init__(self) -> None:
        one_of("activation", self.activation, ACTIVATIONS)
        one_of("norm", self.norm, ("batch", "layer"))
        one_of("gelu", self.gelu, ("tanh", "exact"))
        one_of("pooling", self.pooling, ("mean", "last"))
        one_of("backend", self.backend, ("auto", *(SISO_BACKENDS if self.per_channel else available_backends())))
        one_of("precision", self.precision, PRECISIONS)
        if self.activation == "geglu" and not self.prenorm:
            raise UserError("model.activation=geglu: its block normalises before the layer, model.prenorm=true.")
        for key in ("n_layers", "d_model"):
            if getattr(self, key) < 1:
                raise UserError(f"model.{key}={getattr(self, key)}: it must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout}: it must lie in [0, 1).")

    @property
    @abc.abstractmethod
    def full_state_dim(self) -> int:
        """Stored complex states of one layer before any reduction."""

    @property
    def sees_padding(self) -> bool:
        """Whether answers depend on how far a sequence is padded: a direction starts in the padding, unless masked."""
        return bool(getattr(self, "bidirectional", False)) and not self.mask_padding

    def unshared(self) -> ModelConfig:
        """Returns the configuration whose channels have poles of their own: the same, unless channels share theirs."""
        return self

    def check_state_dims(self, state_dims: Sequence[int]) -> tuple[int, ...]:
        """Returns `state_dims` as a tuple, or raises `UserError` if they do not fit this model."""
        dims = tuple(int(p) for p in state_dims)
        if len(dims) != self.n_layers or any(not 1 <= p <= self.full_state_dim for p in dims):
            raise UserError(
                f"state_dims={list(dims)} does not fit the model: give one number per layer ({self.n_layers} layers), "
                f"each between 1 and {self.full_state_dim}."
            )
        return dims

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form, `name` being the family; `from_dict` is the inverse.

        Keys that older trainings do not know are left out at their default, so that these keep their identity.
        """
        return {"name": self.family, **without_later(dataclasses.asdict(self))}


def families() -> list[str]:
    """Returns the names of the model families that are found (`s5c.lookup`)."""
    return lookup.names(family)


def load_family(name: str) -> ModuleType:
    """Imports a family's module by its name.

    Raises:
        UserError: there is none of that name, or its file is incomplete.
    """
    return lookup.load(family, "model", name, family.SURFACE)


def from_dict(description: Mapping[str, Any]) -> ModelConfig:
    """Rebuilds a configuration from its JSON form.

    Raises:
        UserError: a key is missing, of another type, or not known to this version.
    """
    fields = dict(description)
    schema = load_family(str(fields.pop("name", ""))).Config
    try:
        found: ModelConfig = schema(**fields)
    except TypeError as error:
        raise UserError(
            f"The configuration of the network does not fit this version of s5c: {error}. It was written by another "
            "one, or changed by hand."
        ) from error
    return found
