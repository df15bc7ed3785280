"""Balanced truncation of batches of modal systems: balance once, then cut at any order.

Balancing is one compiled call whose shapes do not depend on the order. The cut is NumPy on the host: a general
eigenvalue problem of the size of the reduced system, for which XLA has a kernel on some platforms only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError, unknown
from s5c.reduction.balanced import Balanced, balance_all, error_bounds
from s5c.reduction.certificate import of_cut, of_settling, of_tail
from s5c.ssm.modal import DEEPEST, ModalSystem, advanced, check_time
from s5c.types import Bool, Complex, Float, Int

VARIANTS = ("truncation", "perturbation")
UNSTABLE = ("refuse", "keep")
EMPTY = -1.0
"""The logarithm of the pole of an empty slot, any stable one."""


@dataclasses.dataclass(frozen=True)
class Realisation:
    """All that balanced truncation knows about a batch of systems; every order is a cut (`truncate`).

    Attributes:
        balanced: realisation of the stable part, as NumPy arrays with one batch axis.
        system: what was balanced, one batch axis.
        unstable: which slots were split off.
        batch: the batch axes as they were given.
        horizon: as in `realise`.
        time: as in `realise`.
        variant: as in `realise`.
        measured: whether `realise` was given covariances.
    """

    balanced: Balanced
    system: ModalSystem
    unstable: Bool[np.ndarray, "batch p"]
    batch: tuple[int, ...]
    horizon: int | None
    time: str
    variant: str
    measured: bool = False

    @property
    def hsv(self) -> Float[np.ndarray, "*batch n"]:
        """Hankel singular values of the stable part, descending; n = 2p."""
        return self.balanced.hsv.reshape(*self.batch, -1)

    @property
    def bounds(self) -> Float[np.ndarray, "*batch orders"]:
        """Upper bound of the H-infinity error for every order from 0 to n; infinite where none is known.

        None is known for a finite horizon or measured covariances, nor for the discretisation of what was balanced in
        continuous time.
        """
        bounds = error_bounds(self.hsv)
        known = self.horizon is None and self.time == "discrete" and not self.measured
        return bounds if known else np.full_like(bounds, np.inf)


@dataclasses.dataclass(frozen=True)
class Truncated:
    """Reduced systems of one batch.

    Attributes:
        system: modal form; slots that a system does not use are empty (B = C = 0) and come last.
        order: real states of each system: two for a pair, one for a real pole.
        slots: slots in use, at most as many as asked for.
        condition: condition number of the eigenvectors of each reduced matrix.
        bound: a-priori bound of the H-infinity error, infinite where none is known. It holds for the numbers in
            `system`: what rounding in double precision may do to them is added.
        defective: how often the order was lowered because eigenvectors were too close to dependent, a pole not stable
            or (perturbation) at zero.
    """

    system: ModalSystem
    order: Int[np.ndarray, "*batch"]
    slots: Int[np.ndarray, "*batch"]
    condition: Float[np.ndarray, "*batch"]
    bound: Float[np.ndarray, "*batch"]
    defective: Int[np.ndarray, "*batch"]


def realise(
    system: ModalSystem,
    covariance: Float[np.ndarray, "*batch n n"] | None = None,
    *,
    horizon: int | None = None,
    time: str = "discrete",
    variant: str = "truncation",
    unstable: str = "refuse",
    axes: Sequence[str] = (),
) -> Realisation:
    """Balances a batch of systems.

    Args:
        system: complex128; any leading batch axes.
        covariance: covariance of the states on data, in place of the controllability Gramian
            (`s5c.reduction.balanced.balance`).
        horizon: number of steps the Gramians count (the sequence length), or None for infinitely many. With one,
            neither stability nor a bound is guaranteed; unstable results are lowered in order by `truncate`.
        time: "discrete", or "continuous" where `log_a` is the generator per step; what comes out is of the same kind.
        variant: "truncation" drops the weak states; "perturbation" lets them settle at once, which keeps the gain for a
            constant input and changes D (densely, if there are several inputs or outputs).
        unstable: "refuse" raises at a pole with |a| >= 1; "keep" splits its slot off, reduces the rest, puts it back.
        axes: names of the batch axes for the message, such as ("layer", "channel").

    Returns:
        A `Realisation`.

    Raises:
        UserError: an unstable pole with unstable="refuse", parameters that are not finite, or an unknown option.

    Source: truncation: Antoulas, Approximation of Large-Scale Dynamical Systems (2005), section 7.3; perturbation: Liu
    and Anderson (1989); as compression of state-space layers: Ezoe and Sato (arXiv 2402.15993).
    """
    if variant not in VARIANTS:
        raise unknown("variant of balanced truncation", variant, VARIANTS)
    if unstable not in UNSTABLE:
        raise unknown("treatment of unstable poles", unstable, UNSTABLE)
    check_time(time)
    batch = np.shape(system.log_a)[:-1]
    flat = ModalSystem(*(np.asarray(x).reshape(-1, *np.shape(x)[len(batch) :]) for x in system))
    if not all(np.isfinite(x).all() for x in flat):
        raise UserError("Balanced truncation of parameters that are not finite: look where the training diverged.")
    split = flat.log_a.real >= 0
    if unstable == "refuse" and split.any():
        raise UserError(_unstable_message(flat.log_a, split, batch, axes))
    stable = ModalSystem(
        np.where(split, EMPTY, flat.log_a),
        np.where(split[:, :, None], 0, flat.B),
        np.where(split[:, None, :], 0, flat.C),
        flat.D,
    )
    with jax.enable_x64(True):
        balancing = ModalSystem(*map(jnp.asarray, stable))
        if variant == "perturbation" and time == "discrete":
            balancing = advanced(balancing)
        if covariance is not None:
            away = np.tile(split, 2)
            covariance = np.asarray(covariance).reshape(len(split), *np.shape(covariance)[-2:])
            covariance = np.where(away[:, :, None] | away[:, None, :], 0, covariance)
        balanced = balance_all(balancing, covariance, horizon=horizon, time=time)
        balanced = Balanced(*(np.asarray(x) for x in balanced))
    return Realisation(balanced, flat, split, batch, horizon, time, variant, covariance is not None)


def truncate(
    realisation: Realisation,
    slots: int | Int[np.ndarray, "*batch"],
    *,
    limit: float = 1e6,
    silent: Bool[np.ndarray, "*batch"] | None = None,
) -> Truncated:
    """Returns the reduced systems of at most `slots` slots each, re-diagonalised and folded.

        A_r E = E diag(mu),    B = E^{-1} B_r,    C = C_r E;    of each pair the half with Im mu > 0 is kept

    A system gets the largest order whose poles fit: 2 slots for pairs only, less where real poles take a slot each.
    An order with a defective matrix (condition of E above `limit`) or an unstable pole is passed over.

    Args:
        realisation: what `realise` returned.
        slots: budget of stored slots, for all systems or one by one; 1 to p, and above the number of unstable poles.
        limit: largest condition number of E accepted.
        silent: systems whose stable part is cut to order 0, whatever their budget: D alone is left of it.

    Returns:
        `Truncated`, as many slots as the largest budget.

    Raises:
        UserError: a budget outside of its range.
    """
    asked = np.broadcast_to(slots, realisation.batch).ravel()
    budget = _stable_budget(realisation, asked)
    reduced = _empty(realisation, int(asked.max()))
    order = np.minimum(2 * budget, (realisation.balanced.hsv > 0).sum(1))
    if silent is not None:
        order = np.where(silent.ravel(), 0, order)
    condition, defective = np.ones(len(order)), np.zeros(len(order), int)
    rounding = np.zeros(len(order))
    pending = np.flatnonzero(order)
    while len(pending):
        for r in np.unique(order[pending]):
            members = pending[order[pending] == r]
            cut = _cut(realisation, members, int(r), limit)
            fits = cut.keep.sum(1) <= budget[members]
            defective[members] += fits & ~cut.sound
            settled = fits & cut.sound
            _write(reduced, members, cut, settled)
            condition[members[settled]] = cut.condition[settled]
            rounding[members[settled]] = cut.rounding[settled]
            order[members[~settled]] -= 1
            pending = np.setdiff1d(pending, members[settled])
        pending = pending[order[pending] > 0]
    if realisation.variant == "perturbation" and len(empty := np.flatnonzero(order == 0)):
        chosen = Balanced(*(x[empty] for x in realisation.balanced))
        reduced.D[empty], rounding[empty] = _settled(chosen, 0)[3], of_settling(chosen)
    used = _put_back(reduced, realisation)
    bound = np.take_along_axis(realisation.bounds.reshape(len(order), -1), order[:, None], axis=1)[:, 0]
    bound = bound + rounding + of_tail(realisation.balanced.hsv, order)
    shaped = [x.reshape(realisation.batch) for x in (order, used, condition, bound, defective)]
    return Truncated(ModalSystem(*(x.reshape(*realisation.batch, *x.shape[1:]) for x in reduced)), *shaped)


def _stable_budget(realisation: Realisation, asked: Int[np.ndarray, "systems"]) -> Int[np.ndarray, "systems"]:
    """Returns the slots left for the stable parts."""
    p, unstable = realisation.system.log_a.shape[1], realisation.unstable.sum(1)
    wrong = (asked < np.maximum(unstable, 1)) | (asked > p)
    if wrong.any():
        raise UserError(
            f"Balanced truncation to {asked[wrong][0]} stored states: this system has {p}, of which "
            f"{unstable[wrong][0]} are unstable and stay. Choose between {max(unstable[wrong][0], 1)} and {p}."
        )
    return asked - unstable


class _Cut(NamedTuple):
    """Systems of one order in modal form, both halves of every pair; `keep` marks what is stored."""

    log_a: Complex[np.ndarray, "k r"]
    B: Complex[np.ndarray, "k r m"]
    C: Complex[np.ndarray, "k q r"]
    D: Float[np.ndarray, "k q m"]
    keep: Bool[np.ndarray, "k r"]
    condition: Float[np.ndarray, "k"]
    rounding: Float[np.ndarray, "k"]
    sound: Bool[np.ndarray, "k"]


def _cut(realisation: Realisation, members: Int[np.ndarray, "k"], r: int, limit: float) -> _Cut:
    """Takes the leading blocks of order r and diagonalises them."""
    chosen = Balanced(*(x[members] for x in realisation.balanced))
    discrete, perturbed = realisation.time == "discrete", realisation.variant == "perturbation"
    # The balanced system of order r. In discrete time A stands for A - I, whose small eigenvalues survive rounding.
    if perturbed:
        A, B, C, D = _settled(chosen, r)
    else:
        A, B, C, D = chosen.generator[:, :r, :r], chosen.B[:, :r], chosen.C[:, :, :r], chosen.D
    # Its modes: A = E diag(rate) E^{-1}. Where E is too ill-conditioned to invert, the order is not to be had.
    rate, E = np.linalg.eig(A)
    rate, E = rate.astype(complex), E.astype(complex)
    condition = np.linalg.cond(E)
    sound = condition < limit
    E = np.where(sound[:, None, None], E, np.eye(r))
    # Poles as logarithms, which decide on stability.
    with np.errstate(divide="ignore"):
        log_a = _log1p(rate) if discrete else rate
    sound &= (log_a.real < 0).all(1)
    # Inputs and outputs of the modes, and what rounding in the change of basis adds to the bound.
    modal_B, modal_C = np.linalg.solve(E, B.astype(complex)), C @ E
    rounding = of_cut(chosen.hsv, A, E, modal_B, modal_C, log_a if discrete else rate)
    # `_settled` gives y = C x_{k-1} + D u_k; the layer reads its state after the input, so C loses a factor a and D the
    # part of the current input that then comes through the state. A pole at 0 has no such form.
    if perturbed and discrete:
        at_zero = np.abs(1 + rate) < 1 / limit
        sound &= ~at_zero.any(1)
        modal_C = modal_C / np.where(at_zero, 1, 1 + rate)[:, None, :]
        D = D - (modal_C @ modal_B).real
    # One of each conjugate pair is stored, and counts twice; a real pole is its own partner.
    is_real = rate.imag == 0
    modal_C = np.where(is_real[:, None, :], modal_C / 2, modal_C)
    return _Cut(log_a, modal_B, modal_C, D, rate.imag >= 0, condition, rounding, sound)


def _settled(balanced: Balanced, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lets the states behind the first r settle at once: 0 = A21 x1 + A22 x2 + B2 u, with A - I for A in discrete time.

    A = A11 - A12 A22^{-1} A21,  B = B1 - A12 A22^{-1} B2,  C = C1 - C2 A22^{-1} A21,  D = D - C2 A22^{-1} B2
    """
    A, B, C, D, hsv = balanced
    absent = hsv[:, r:] == 0  # zero rows and columns, which must not make A22 singular
    A22 = A[:, r:, r:] - absent[:, :, None] * np.eye(A.shape[1] - r)
    A21, B2 = np.linalg.solve(A22, A[:, r:, :r]), np.linalg.solve(A22, B[:, r:])
    A12, C2 = A[:, :r, r:], C[:, :, r:]
    return A[:, :r, :r] - A12 @ A21, B[:, :r] - A12 @ B2, C[:, :, :r] - C2 @ A21, D - C2 @ B2


def _log1p(z: Complex[np.ndarray, "k r"]) -> Complex[np.ndarray, "k r"]:
    """Returns log(1 + z); NumPy's own loses the real part of a small z."""
    square = z.real * (2 + z.real) + z.imag**2  # |1 + z|^2 - 1
    return np.maximum(np.log1p(np.maximum(square, -1)) / 2, DEEPEST) + 1j * np.arctan2(z.imag, 1 + z.real)


def _empty(realisation: Realisation, width: int) -> ModalSystem:
    """Returns systems of `width` empty slots."""
    count, (_, m), (q, _) = len(realisation.unstable), realisation.system.B.shape[1:], realisation.system.C.shape[1:]
    zeros = np.zeros((count, width, m), complex), np.zeros((count, q, width), complex)
    return ModalSystem(np.full((count, width), EMPTY, complex), *zeros, realisation.system.D.copy())


def _write(reduced: ModalSystem, members: Int[np.ndarray, "k"], cut: _Cut, settled: Bool[np.ndarray, "k"]) -> None:
    """Writes the kept slots of settled systems to the front of theirs."""
    width = min(cut.keep.shape[1], reduced.log_a.shape[1])
    first = np.argsort(~cut.keep, axis=1, kind="stable")[:, :width]
    kept = np.take_along_axis(cut.keep, first, 1)
    log_a = np.where(kept, np.take_along_axis(cut.log_a, first, 1), EMPTY)
    B = kept[:, :, None] * np.take_along_axis(cut.B, first[:, :, None], 1)
    C = kept[:, None, :] * np.take_along_axis(cut.C, first[:, None, :], 2)
    to = members[settled]
    reduced.log_a[to, :width] = log_a[settled]
    reduced.B[to, :width] = B[settled]
    reduced.C[to, :, :width] = C[settled]
    reduced.D[to] = cut.D[settled]


def _put_back(reduced: ModalSystem, realisation: Realisation) -> Int[np.ndarray, "systems"]:
    """Appends the unstable slots behind the slots in use; returns how many slots each system then uses."""
    in_use = np.any(reduced.B != 0, axis=2) | np.any(reduced.C != 0, axis=1)
    used = np.where(in_use, np.arange(1, in_use.shape[1] + 1), 0).max(1)
    for i in np.flatnonzero(realisation.unstable.any(1)):
        slots, to = np.flatnonzero(realisation.unstable[i]), slice(used[i], used[i] + realisation.unstable[i].sum())
        reduced.log_a[i, to] = realisation.system.log_a[i, slots]
        reduced.B[i, to] = realisation.system.B[i, slots]
        reduced.C[i, :, to] = realisation.system.C[i][:, slots]
        used[i] = to.stop
    return used


def _unstable_message(
    log_a: Complex[np.ndarray, "systems p"],
    unstable: Bool[np.ndarray, "systems p"],
    batch: tuple[int, ...],
    axes: Sequence[str],
) -> str:
    """Names the first unstable pole by its place in the batch."""
    system, slot = np.argwhere(unstable)[0]
    names = [*axes, *(f"batch axis {i}" for i in range(len(axes), len(batch)))]
    place = [f"{name} {i}" for name, i in zip(names, np.unravel_index(system, batch), strict=False)]
    return (
        f"Unstable pole in {', '.join([*place, f'state {slot}'])}: |a| - 1 = {np.expm1(log_a[system, slot].real):.3g}, "
        f"angle {log_a[system, slot].imag:.3g} ({unstable.sum()} unstable poles in all). Balanced truncation needs "
        'stable systems: choose unstable="keep" to split such poles off and leave them as they are.'
    )
