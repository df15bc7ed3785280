"""`bt`: balanced truncation, compression to poles of its own and the start of a smaller training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError, bounded, unknown
from s5c.reduction.certificate import layer_bound
from s5c.reduction.contract import Fitted, ReducedLayer
from s5c.reduction.energy import UNKNOWN_LENGTH
from s5c.reduction.layer import Layer, check_finite, check_steps
from s5c.reduction.truncation import UNSTABLE, Realisation, Truncated, realise, truncate
from s5c.ssm.modal import ModalSystem, from_ssm, to_ssm
from s5c.ssm.response import dc_gain
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Bool, Float, Int

KEPT = 1e-3
"""Relative change of the answer to a constant up to which it counts as kept: layers are stored in single precision."""


@dataclasses.dataclass(frozen=True)
class Method:
    """Balances every layer and keeps its leading states, re-diagonalised.

        P = Q = diag(sigma_1, ..., sigma_n),    keep the first r:    ||G - G_r||_inf <= 2 sum_{k > r} sigma_k

    on the conjugate-closed system that runs; the two directions of a bidirectional layer are stacked outputs. A slot is
    a pair of real states, and its score sigma_{2k-1} + sigma_{2k} is what it takes off half the bound, so the
    allocation `tolerance` gives every layer the same share of its Hankel singular values. In a layer with one system
    per channel each channel gets poles of its own.

    Attributes:
        balance: `discrete` balances the system that runs; `continuous` the one before discretisation.
        horizon: `infinite`, or `sequence`: the Gramians count the length of the sequences only.
        gramian: Gramian of the states: `white` input, or `empirical`: their covariance on calibration sequences.
        variant: `truncation` drops the weak states, `perturbation` lets them settle at once (the answer to a constant
            stays; a layer of many inputs stores the diagonal of the changed D alone, and a note says how far that
            answer moves).
        unstable: `keep` splits poles with |a| >= 1 off and puts them back, as every method keeps them; `refuse` raises.
        limit: largest condition number of a reduced system's eigenvectors; beyond it the order is lowered by one.

    The eigenproblem of a reduced matrix is solved by NumPy on the host: XLA has it on few platforms.

    Source: Ezoe and Sato (arXiv 2402.15993), of which the abstract is all that could be read: time domain, horizon and
    treatment of channels are ours; Antoulas (2005), section 7.3.
    """

    balance: str = "discrete"
    horizon: str = "infinite"
    gramian: str = "white"
    variant: str = "truncation"
    unstable: str = "keep"
    limit: float = bounded(1e6, least=1)

    def __post_init__(self) -> None:
        choices = {
            "horizon": ("infinite", "sequence"),
            "balance": ("discrete", "continuous"),
            "variant": ("truncation", "perturbation"),
            "gramian": ("white", "empirical"),
            "unstable": UNSTABLE,
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise unknown(f"value for reduction.{key}", getattr(self, key), allowed)
        if self.needs_moments and (self.balance, self.variant) != ("discrete", "truncation"):
            raise UserError(
                f"reduction.gramian=empirical measures the states of the system that runs and truncates: it does not "
                f"go with reduction.balance={self.balance} reduction.variant={self.variant}."
            )

    @property
    def needs_moments(self) -> bool:
        """Whether the layers must come with moments."""
        return self.gramian == "empirical"

    def fit(self, layers: Sequence[Layer], seed: int) -> Fitted:
        """Balances all layers.

        Raises:
            UserError: a parameter is not finite, or a step not positive.
        """
        check_finite(layers)
        check_steps(layers)
        return Balancing(self, layers)


class Balancing:
    """The balanced realisations of a network: every order of every layer is a cut."""

    def __init__(self, method: Method, layers: Sequence[Layer]) -> None:
        self._layers = list(layers)
        self._time = method.balance
        self._limit = method.limit
        self._realisations = self._realise(method)
        self.scores = [_slot_scores(r) for r in self._realisations]

    def _realise(self, method: Method) -> list[Realisation]:
        realisations = []
        for i, layer in enumerate(self._layers):
            if method.horizon == "sequence" and layer.horizon is None:
                raise UserError(UNKNOWN_LENGTH)
            axes = ("channel",) if layer.channels else ()
            with jax.enable_x64(True):
                modal = ModalSystem(*(np.asarray(x) for x in _modal(layer.system, self._time)))
            try:
                realisations.append(
                    realise(
                        modal,
                        _covariance(layer) if method.needs_moments else None,
                        horizon=layer.horizon if method.horizon == "sequence" else None,
                        time=self._time,
                        variant=method.variant,
                        unstable=method.unstable,
                        axes=axes,
                    )
                )
            except UserError as error:
                raise UserError(f"Layer {i}: {error}") from error
        return realisations

    @property
    def hankel_singular_values(self) -> list[Float[np.ndarray, "*channels n"]]:
        """Hankel singular values of every layer, descending."""
        return [r.hsv for r in self._realisations]

    def reduce(self, orders: Sequence[Int[np.ndarray, "*channels"]]) -> list[ReducedLayer]:
        """Cuts every layer at its order and writes the result as a layer."""
        return [self._cut(i, np.asarray(order)) for i, order in enumerate(orders)]

    def _cut(self, i: int, order: Int[np.ndarray, "*channels"]) -> ReducedLayer:
        layer, realisation = self._layers[i], self._realisations[i]
        unstable = realisation.unstable.sum(1).reshape(realisation.batch)
        least = np.maximum(unstable, 1)
        silent = np.asarray((order == 0) & (unstable == 0))  # a channel that lost all its slots
        found = truncate(realisation, np.asarray(np.maximum(order, least)), limit=self._limit, silent=silent)
        width = max(int(found.slots.max()), 1)  # behind it all slots are empty
        modal = ModalSystem(
            found.system.log_a[..., :width], found.system.B[..., :width, :], found.system.C[..., :width], found.system.D
        )
        system = _written(layer.system, modal, self._time, realisation.unstable)
        bound = float(np.max(layer_bound(found.bound, modal, system, layer.system)))
        if layer.channels and unstable.any():
            bound = np.inf  # not every family stores an unstable mode to the last bit, and rounding makes it differ
        notes = _notes(i, found)
        if realisation.variant == "perturbation" and not unstable.any():
            notes = (*notes, *_of_constants(i, layer.system, system))
        return ReducedLayer(system, bound if np.isfinite(bound) else None, notes)


def _modal(system: DiagonalSSM, time: str) -> ModalSystem:
    convert: Any = lambda one: from_ssm(one, time=time)  # noqa: E731
    return jax.vmap(convert)(system) if system.Lambda.ndim == 2 else convert(system)


def _of_constants(i: int, full: DiagonalSSM, written: DiagonalSSM) -> tuple[str, ...]:
    """Returns how far the answer to a constant input moves, where it was to be kept and does not fit into the layer."""
    gain: Any = jax.vmap(dc_gain) if full.Lambda.ndim == 2 else dc_gain
    with jax.enable_x64(True):
        before, after = (np.asarray(gain(_modal(one, "discrete"))) for one in (full, written))
    moved = np.linalg.norm(after - before) / max(np.linalg.norm(before), np.finfo(float).tiny)
    if moved < KEPT:
        return ()
    return (
        f"Layer {i}: the answer to a constant moves by {moved:.2g} of itself: a layer of several inputs keeps what a "
        "channel answers to itself, layers with a system per channel keep all.",
    )


def _covariance(layer: Layer) -> Float[np.ndarray, "*channels n n"]:
    assert layer.moments is not None, "reduction.gramian=empirical needs moments"
    with jax.enable_x64(True):
        return np.asarray(layer.moments.covariance(1 if layer.system.C_backward is None else 2))


def _written(
    original: DiagonalSSM, modal: ModalSystem, time: str, unstable: Bool[np.ndarray, "systems p"]
) -> DiagonalSSM:
    """Returns the layer of a modal form, with the original's median step size; unstable modes are the original's.

    The logarithm of the step is one of single precision: as what is stored it would turn all poles otherwise.
    """
    bidirectional = original.C_backward is not None

    def one(modal: ModalSystem, Delta: Any) -> DiagonalSSM:
        return to_ssm(modal, Delta, bidirectional=bidirectional, discretisation=original.discretisation, time=time)

    with jax.enable_x64(True):
        middle = np.median(np.asarray(original.Delta), axis=-1, keepdims=True)
        step = np.exp(np.log(middle).astype(np.float32).astype(float))
        Delta = jnp.asarray(np.broadcast_to(step, modal.log_a.shape))
        modal = ModalSystem(*(jnp.asarray(x) for x in modal))
        convert: Any = jax.vmap(one) if original.Lambda.ndim == 2 else one
        system = dataclasses.replace(convert(modal, Delta), bias=original.bias)
        return system if original.Lambda.ndim == 2 else _with_modes(system, original, np.flatnonzero(unstable[0]))


def _with_modes(system: DiagonalSSM, original: DiagonalSSM, modes: Int[np.ndarray, "k"]) -> DiagonalSSM:
    """Returns the layer with these modes of the original in place of its last slots, which are theirs, bit for bit."""
    if not len(modes):
        return system
    theirs, kept = original.take(modes), system.take(np.arange(system.state_dim - len(modes)))

    def after(one: Array | None, other: Array | None, axis: int) -> Any:
        return None if one is None or other is None else jnp.concatenate([one, other], axis=axis)

    return dataclasses.replace(
        system,
        Lambda=after(kept.Lambda, theirs.Lambda, 0),
        B=after(kept.B, theirs.B, 0),
        C=after(kept.C, theirs.C, 1),
        Delta=after(kept.Delta, theirs.Delta, 0),
        C_backward=after(kept.C_backward, theirs.C_backward, 1),
    )


def _slot_scores(realisation: Realisation) -> Float[np.ndarray, "..."]:
    """Returns what each slot takes off half the error bound; infinite for unstable slots, which come first."""
    hsv = realisation.hsv
    pairs = hsv.reshape(*hsv.shape[:-1], -1, 2).sum(-1)
    unstable = realisation.unstable.sum(1).reshape(realisation.batch)[..., None]
    p = pairs.shape[-1]
    shifted = np.take_along_axis(pairs, np.maximum(np.arange(p) - unstable, 0), axis=-1)
    return np.where(np.arange(p) < unstable, np.inf, shifted)


def _notes(i: int, found: Truncated) -> tuple[str, ...]:
    lowered = int((found.defective > 0).sum())
    if not lowered:
        return ()
    which = f"in {lowered} channels" if found.defective.ndim else ""
    return (
        f"Layer {i}: the order was lowered{which}: the reduced matrix has nearly dependent eigenvectors or a pole that "
        "is not stable.",
    )
