"""Gramians of modal systems, their factors, and Hankel singular values.

Of a diagonal system the Gramians are Cauchy-like, P_ij = (B B^H)_ij / (1 - a_i conj(a_j)), and so close to singular
that a factor of the computed matrix is lost to rounding below 1e-8 of its norm. On an infinite horizon the factor has
a closed form: its columns are the Malmquist-Takenaka functions, evaluated at the poles, and are found without forming
P at all.

Sources: Antoulas, Approximation of Large-Scale Dynamical Systems (2005), sections 4.3 and 5.4; Heuberger, Van den Hof
and Wahlberg (eds), Modelling and Identification with Rational Orthogonal Basis Functions (2005), chapter 2;
Demmel, Accurate singular value decompositions of structured matrices (SIAM J. Matrix Anal. Appl. 21, 1999).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from s5c.errors import unknown
from s5c.ssm.modal import ModalSystem, check_time, expm1, real_rows
from s5c.types import Array, Bool, Complex, Float

SIDES = ("controllability", "observability")


def gramian(
    system: ModalSystem, side: str, *, horizon: int | None = None, time: str = "discrete"
) -> Float[Array, "n n"]:
    """Returns a Gramian in the coordinates of `s5c.ssm.modal.real_form`.

        P = sum_{k < L} A^k B B^T A^T^k,    Q = sum_{k < L} A^T^k C^T C A^k      (continuous: integrals from 0 to L)

    In modal coordinates entry (i, j) is (B B^H)_ij (1 - (a_i conj(a_j))^L) / (1 - a_i conj(a_j)), computed with expm1
    on the logarithms: entries have full relative accuracy for every |a| < 1.

    Args:
        system: p slots, complex128. Assumes |a| < 1 on an infinite horizon; a finite one takes any pole.
        side: "controllability" (P) or "observability" (Q).
        horizon: number of steps L, or None for infinitely many.
        time: "discrete", or "continuous" where `log_a` is the generator, per step.

    Returns:
        Symmetric positive semi-definite matrix, n = 2p.

    Raises:
        UserError: unknown side or time.
        ValueError: the system is not in double precision.

    Source: Antoulas (2005), section 4.3; finite horizon: Gawronski and Juang (1990).
    """
    s, b = _generator(system, side)
    return cross_gramian(s, b, s, b, horizon=horizon, time=time)


def cross_gramian(
    log_a: Complex[Array, "p"],
    B: Complex[Array, "p m"],
    other_log_a: Complex[Array, "r"],
    other_B: Complex[Array, "r m"],
    *,
    horizon: int | None = None,
    time: str = "discrete",
) -> Float[Array, "n _n"]:
    """Returns sum_{k < L} A^k B (A'^k B')^T of two systems with the same input, in the coordinates of `real_form`.

    The covariance of the states of both under white input; of a system with itself its controllability Gramian.

    Args:
        log_a: logarithms of the poles of the one, complex128.
        B: its input matrix.
        other_log_a: those of the other.
        other_B: its input matrix.
        horizon: as in `gramian`.
        time: as in `gramian`.

    Returns:
        Real matrix, n = 2p rows and 2r columns.
    """
    own = _kernel(log_a[:, None] + other_log_a.conj(), horizon, time) * (B @ other_B.conj().T)
    partner = _kernel(log_a[:, None] + other_log_a, horizon, time) * (B @ other_B.T)
    plus, minus = own + partner, own - partner
    return jnp.block([[plus.real, -minus.imag], [plus.imag, minus.real]])


def gramian_factor(
    system: ModalSystem, side: str, *, horizon: int | None = None, time: str = "discrete"
) -> Float[Array, "n n"]:
    """Returns L with L L^T = Gramian.

    Infinite horizon: one pair of poles after the other is divided out of the generator,

        L_:k = (B v) sqrt(1 - |a_k|^2) / (1 - a conj(a_k)),    v = b_k^H / |b_k|
        B <- B + (phi_k(a) - 1) (B v) v^H,                     phi_k(z) = (z - a_k) / (1 - conj(a_k) z),

    always the slot of the largest remaining energy. That is Cholesky's factorisation with complete pivoting, without
    its subtractions: the error is of the size of rounding relative to L, where that of a factor of the computed Gramian
    is its square root. For one input every entry of L has nearly full relative accuracy. Costs n^2 m.

    Finite horizon: by `factor`.

    Args and Raises as in `gramian`.

    Returns:
        Real factor, columns in the order of the pivots (infinite) or of those eigenvalues, rising (finite horizon).
    """
    if horizon is None:
        s, b = _generator(system, side)
        return _malmquist(s, _compressed(b), time=check_time(time))
    return factor(gramian(system, side, horizon=horizon, time=time))


def factor(P: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns L with L L^T = P of a positive semi-definite matrix that was computed or measured.

    From the eigenvalues of P scaled to a unit diagonal, negative ones set to zero: what is below 1e-8 of its row is
    noise; the row of a state that is always zero is exactly zero.
    """
    size = jnp.sqrt(jnp.maximum(jnp.diag(P), 0))
    unit = jnp.where(size == 0, 1, size)
    values, vectors = jnp.linalg.eigh(P / unit[:, None] / unit)
    return size[:, None] * vectors * jnp.sqrt(jnp.maximum(values, 0))


def gramian_factors(
    system: ModalSystem, *, horizon: int | None = None, time: str = "discrete"
) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Returns the factors of both Gramians, controllability first, as `gramian_factor` does one by one.

    On an infinite horizon both run through one loop, compiled once.
    """
    if horizon is not None:
        P, Q = (gramian_factor(system, side, horizon=horizon, time=time) for side in SIDES)
        return P, Q
    poles, generators = zip(*(_generator(system, side) for side in SIDES), strict=True)
    narrow = [_compressed(b) for b in generators]
    width = max(b.shape[1] for b in narrow)
    padded = jnp.stack([jnp.pad(b, ((0, 0), (0, width - b.shape[1]))) for b in narrow])
    both = jax.vmap(partial(_malmquist, time=check_time(time)))(jnp.stack(poles), padded)
    return both[0], both[1]


def hankel_singular_values(
    system: ModalSystem, *, horizon: int | None = None, time: str = "discrete"
) -> Float[Array, "n"]:
    """Returns the Hankel singular values of the system that runs, both halves of every pair included.

        sigma = sqrt(eig(P Q)) = singular values of L_Q^T L_P

    Args:
        system: p slots, complex128. Assumes |a| < 1 on an infinite horizon.
        horizon: number of steps, or None for infinitely many; with one they are the time-limited values.
        time: as in `gramian`.

    Returns:
        n = 2p values, descending; a real or empty slot accounts for one or two zeros.

    Source: Antoulas (2005), section 5.4; from factors: section 7.3.
    """
    P, Q = gramian_factors(system, horizon=horizon, time=time)
    return jnp.linalg.svd(Q.T @ P, compute_uv=False)


def _generator(system: ModalSystem, side: str) -> tuple[Complex[Array, "p"], Complex[Array, "p m"]]:
    """Returns the poles and the rows of B, or those of the dual system."""
    if system.log_a.dtype != jnp.complex128:
        raise ValueError(f"Gramians need complex128, got {system.log_a.dtype}: call inside jax.enable_x64(True).")
    if side not in SIDES:
        raise unknown("Gramian", side, SIDES)
    if side == "controllability":
        return system.log_a, system.B
    return system.log_a.conj(), system.C.conj().T


def _kernel(z: Complex[Array, "p r"], horizon: int | None, time: str) -> Complex[Array, "p r"]:
    """Returns sum_{k < L} exp(k z), or its integral."""
    rate = expm1(z) if check_time(time) == "discrete" else z
    if horizon is None:
        return -1 / rate
    is_zero = rate == 0
    return jnp.where(is_zero, horizon, expm1(horizon * z) / jnp.where(is_zero, 1, rate))


def _compressed(b: Complex[Array, "p m"]) -> Complex[Array, "p _m"]:
    """Returns a generator of no more columns than real states; only b b^H and b b^T matter."""
    p, m = b.shape
    if m <= 2 * p:
        return b
    R = jnp.linalg.qr(real_rows(b).T, mode="r").T / jnp.sqrt(2.0)
    return jax.lax.complex(R[:p], R[p:])


def _malmquist(s: Complex[Array, "p"], b: Complex[Array, "p m"], *, time: str) -> Float[Array, "n n"]:
    """Factors the infinite Gramian of poles `s` and generator `b`; see `gramian_factor`."""
    p, m = b.shape
    rate: Callable[[Array], Array] = expm1 if time == "discrete" else (lambda z: z)
    decay = -rate(s + s.conj()).real
    # A Blaschke factor is free up to a phase. With phi(1) = 1 (continuous: at infinity) the two factors of a pair
    # multiply to a real function, and the rows of the partners stay the conjugates of those stored.
    turn = -jnp.exp(s) * rate(s.conj()) / rate(s) if time == "discrete" else jnp.ones_like(s)

    def divide_out(pole: Array, turn: Array, v: Array, decay: Array, poles: Array, rows: Array) -> tuple[Array, Array]:
        along = rows @ v
        span = rate(poles + pole.conj())
        phi = turn * rate(poles - pole) / span
        if m == 1:  # no sum: keeps the relative accuracy of rows however small they become
            return -along * jnp.sqrt(decay) / span, jnp.where(v == 0, 1, phi)[:, None] * rows
        return -along * jnp.sqrt(decay) / span, rows + ((phi - 1) * along)[:, None] * v.conj()

    def step(carry: tuple[Array, Bool[Array, "p"]], _: None) -> tuple[tuple[Array, Array], Float[Array, "n 2"]]:
        b, left = carry
        k = jnp.argmax(jnp.where(left, jnp.sum(jnp.abs(b) ** 2, axis=1) / decay, -1))
        pole, poles = s[k], jnp.append(s, s[k].conj())
        v, across, partner = _directions(b[k])
        first, rows = divide_out(pole, turn[k], v, decay[k], poles, jnp.concatenate([b, b[k].conj()[None]]))
        phi = turn[k] * rate(pole.conj() - pole) / rate(2 * pole.conj())
        # The partner's row after the first division, written so that it is right however small it is.
        remaining = phi * partner[0] * v.conj() + partner[1] * across.conj()
        size = jnp.linalg.norm(remaining)
        v2 = remaining.conj() / jnp.where(size == 0, 1, size)
        rows = rows.at[-1].set(remaining)
        second, rows = divide_out(pole.conj(), turn[k].conj(), v2, decay[k], poles, rows)
        columns = jnp.stack([first, second], axis=1)
        columns = columns[:-1] @ _realising(columns[k].at[1].set(0), columns[-1])
        return (rows[:-1], left.at[k].set(False)), real_rows(columns)

    carry = b, jnp.ones(p, bool)
    return jnp.moveaxis(jax.lax.scan(step, carry, None, length=p)[1], 0, 1).reshape(2 * p, 2 * p)


def _directions(b: Complex[Array, "m"]) -> tuple[Array, Array, tuple[Array, Array]]:
    """Returns v = b^H / |b|, a unit vector across it in the plane of b and conj(b), and conj(b) in these two.

    b = exp(i t) (r q1 + i u q2) with q1, q2 real and orthonormal and r >= u >= 0. Being real, the plane holds both rows
    of a pair exactly: rounding cannot tell them apart where b is almost real.
    """
    turn = jnp.exp(0.5j * jnp.angle(jnp.sum(b * b)))
    upright = b / turn
    r = jnp.linalg.norm(upright.real)
    q1 = upright.real / jnp.where(r == 0, 1, r)
    rest = upright.imag - q1 * (q1 @ upright.imag)
    u = jnp.linalg.norm(rest)
    q2 = rest / jnp.where(u == 0, 1, u)
    size = jnp.hypot(r, u)
    size = jnp.where(size == 0, 1, size)
    v = (r * q1 - 1j * u * q2) / (size * turn)
    across = (r * q2 - 1j * u * q1) / size
    return v, across, ((r - u) * (r + u) / (size * turn**2), -2j * r * u / (size * turn))


def _realising(own: Complex[Array, "2"], partner: Complex[Array, "2"]) -> Complex[Array, "2 2"]:
    """Returns the unitary matrix that makes a pair's two columns conjugates of each other in the partner's rows."""
    rows = jnp.stack([own + partner, 1j * (partner - own)])
    sizes = jnp.linalg.norm(rows, axis=1)
    x = rows[jnp.argmax(sizes)]
    size = jnp.max(sizes)
    x = jnp.where(size == 0, jnp.array([1, 0]), x / jnp.where(size == 0, 1, size))
    return jnp.stack([x.conj(), 1j * jnp.array([-x[1], x[0]])], axis=1)
