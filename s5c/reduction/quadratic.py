"""A layer with its gate as a linear system with quadratic outputs (LQO), its h2 norm and the h2 norm of an error.

    v = G u,    y_i = L_i v + v^T N_i v,    N_i = sym(F_i^T G_i) + diag(K_i)        (i-th rows; v less its mean)

In state space M_i = C^T N_i C. The norms need none of these n x n matrices: P meets M_i only between outputs,
tr(P M_i P M_i) = tr(V N_i V N_i) with V = C P C^T, and D enters V like the states with pole 0 that it is. So the norm
of a layer, and of the error of a reduced one, is a function of the covariance of its linear outputs under white noise:
of the whole of V, whereas the h2 norm of the linear system is its trace.

Source: the norm: Benner, Goyal and Pontes Duff (IEEE TAC 2022), here in discrete time; networks of such systems:
Sakamoto and Sato (arXiv 2510.14542). They publish neither the form of a gate nor code: the coefficients are ours.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm as gaussian

from s5c.errors import UserError
from s5c.reduction.gate import Gate
from s5c.reduction.layer import Layer
from s5c.ssm.gramian import cross_gramian
from s5c.ssm.modal import ModalSystem, expm1, from_ssm, real_outputs
from s5c.types import Array, Float

COEFFICIENTS = ("taylor", "statistical")
SAMPLES = 4096
"""Of v, in pairs around its mean; always the same."""


class QuadraticForm(NamedTuple):
    """The quadratic outputs of the linear outputs v (see the module); one row per output."""

    L: Float[Array, "q h"]
    F: Float[Array, "q h"]
    G: Float[Array, "q h"]
    K: Float[Array, "q h"]


class LQO(NamedTuple):
    """A layer as a linear system with quadratic outputs.

    Attributes:
        linear: input v-noise to v; the outputs of a bidirectional layer's two directions are stacked.
        form: from v to the output of the gate.
    """

    linear: ModalSystem
    form: QuadraticForm


class Covariances(NamedTuple):
    """Of the linear outputs v of a full and vr of a reduced layer that see the same white noise."""

    full: Float[Array, "h h"]
    cross: Float[Array, "h h"]
    reduced: Float[Array, "h h"]


# ---- from a layer to its LQO form


def lqo(layer: Layer, *, coefficients: str = "statistical", horizon: int | None = None) -> LQO:
    """Returns the LQO form of a layer behind its normalisation and before the residual sum.

    A normalised input has deviation `gain` and mean `offset` per feature, so unit white noise is scaled by the gain.
    It is not scaled by gamma / sigma, batch normalisation's factor at inference: what has unit variance is the input
    divided by sigma already. Layer normalisation is treated alike, though each step has its own statistics.

    Args:
        layer: one system of many inputs, with its gate.
        coefficients: "taylor" expands at v = 0. "statistical" takes the mean gradient and Hessian over the Gaussian v
            that white noise gives, which stay right where v is not small.
        horizon: number of steps, or None for infinitely many; a finite one takes any pole.

    Raises:
        UserError: the layer has one system per channel, which its gate mixes, or its gate is unknown.
    """
    if layer.channels is not None:
        raise UserError(
            "The LQO form is that of a layer with one system of many inputs (model=s5). This family has one system per "
            "channel (S4D, DSS), whose outputs the gate mixes: choose reduction=h2, aire or bt."
        )
    if layer.gate is None:
        raise UserError("The LQO form of a layer needs the gate behind it; this layer comes without one.")
    return _lqo(layer, coefficients=coefficients, horizon=horizon)


@partial(jax.jit, static_argnames=("coefficients", "horizon"))
def _lqo(layer: Layer, *, coefficients: str, horizon: int | None) -> LQO:
    assert layer.gate is not None
    linear = white(from_ssm(layer.system), layer.gate)
    h = layer.system.D.shape[0]
    if coefficients == "taylor":
        return LQO(linear, quadratic_form(layer.gate, jnp.zeros((1, h))))
    values, vectors = jnp.linalg.eigh(output_covariance(linear, linear, horizon=horizon))
    # The symmetric root, unlike others, does not turn with eigenvectors that are free to: equal layers, equal samples.
    root = vectors * jnp.sqrt(jnp.maximum(values, 0)) @ vectors.T
    noise = jax.random.normal(jax.random.key(0), (SAMPLES // 2, h)) @ root
    return LQO(
        linear, quadratic_form(layer.gate, mean_output(layer, horizon=horizon) + jnp.concatenate([noise, -noise]))
    )


def white(linear: ModalSystem, gate: Gate) -> ModalSystem:
    """Returns the system with the deviation of the normalised input folded in: its input is unit white noise."""
    if gate.gain is None:
        return linear
    return linear._replace(B=linear.B * gate.gain, D=linear.D * gate.gain)


def mean_output(layer: Layer, *, horizon: int | None = None) -> Float[Array, "h"]:
    """Returns the answer to the mean of the normalised input, after `horizon` steps or once settled."""
    h = layer.system.D.shape[0]
    mean = jnp.zeros(h) if layer.system.bias is None else layer.system.bias
    if layer.gate is None or layer.gate.offset is None:
        return mean
    log_a, B, C, D = from_ssm(layer.system)
    rate = expm1(log_a)
    grown = -1 / rate if horizon is None else jnp.where(rate == 0, horizon, expm1(horizon * log_a) / rate)
    stacked = 2 * (C @ (grown * (B @ layer.gate.offset))).real + D @ layer.gate.offset
    return mean + stacked.reshape(-1, h).sum(0)


def quadratic_form(gate: Gate, v: Float[Array, "samples h"]) -> QuadraticForm:
    """Returns the mean gradient and half the mean Hessian of a gate over samples of v; Taylor's are those at one point.

    Every gate but `lqo`, a quadratic form by itself, is q_i sigma(h_i), the value q and the logits h elementwise
    functions of v under a matrix, with gradients q'_i, h'_i and diagonal Hessians q''_i, h''_i:

        L_i = E[sigma q'_i] + E[q sigma' h'_i]
        N_i = sym(h (E[sigma' q'_i] + E[q sigma''] h / 2)) + (E[sigma q''_i] + E[q sigma' h''_i]) / 2
        h = E[sigma' h'_i] / E[sigma']

    Rank two plus a diagonal, as in the Taylor expansion; of the mean Hessian that neglects how far sigma' q'_i and h'_i
    vary together. gelu is v Phi(v); the networks' tanh formula for it differs by less than 5e-4.

    Args:
        gate: activation and weights.
        v: samples of the linear outputs, equally weighted.

    Raises:
        UserError: the activation is unknown.
    """
    if gate.activation == "lqo":  # a quadratic form as it is; it is taken around the mean of v
        eye, m = jnp.eye(v.shape[1]), v.mean(0)
        assert gate.W1 is not None and gate.W2 is not None, "a gate without its weights"
        L = eye + (gate.W2 @ m)[:, None] * gate.W1 + (gate.W1 @ m)[:, None] * gate.W2
        return QuadraticForm(L, gate.W1, gate.W2, jnp.zeros_like(eye))
    Phi, phi = gaussian.cdf(v), gaussian.pdf(v)
    gelu, slope, curvature = v * Phi, Phi + v * phi, phi * (2 - v**2)
    eye = jnp.eye(v.shape[1])

    def mean(a: Array, b: Array) -> Array:
        return a.T @ b / len(v)

    if gate.activation == "gelu":
        nothing = jnp.zeros_like(eye)
        return QuadraticForm(jnp.diag(slope.mean(0)), nothing, nothing, jnp.diag(curvature.mean(0)) / 2)
    if gate.activation == "half_glu2":
        q, Wq, q1, q2 = v, eye, jnp.ones_like(v), jnp.zeros_like(v)
    elif gate.activation == "half_glu1":
        q, Wq, q1, q2 = gelu, eye, slope, curvature
    elif gate.activation == "full_glu":
        Wq, bq = _dense(gate.W1, gate.b1)
        q, q1, q2 = gelu @ Wq.T + bq, slope, curvature
    else:
        raise UserError(f"The LQO form of activation {gate.activation!r} is not known.")
    W, b = _dense(gate.W2, gate.b2)
    s = jax.nn.sigmoid(gelu @ W.T + b)
    s1 = s * (1 - s)
    s2 = s1 * (1 - 2 * s)
    slopes = s1.mean(0)[:, None]  # 0 of a gate that is open or shut for all samples: it adds nothing quadratic
    logits = W * mean(s1, slope) / jnp.where(slopes == 0, 1, slopes)
    return QuadraticForm(
        Wq * mean(s, q1) + W * mean(q * s1, slope),
        logits,
        Wq * mean(s1, q1) + (q * s2).mean(0)[:, None] * logits / 2,
        (Wq * mean(s, q2) + W * mean(q * s1, curvature)) / 2,
    )


def _dense(W: Array | None, b: Array | None) -> tuple[Array, Array]:
    assert W is not None and b is not None, "a gate without its weights"
    return W, b


# ---- norms


def output_covariance(a: ModalSystem, b: ModalSystem, *, horizon: int | None = None) -> Float[Array, "h h"]:
    """Returns the covariance of the linear outputs of two layers that see the same unit white noise.

        X = sum_k h_k h'_k^T    over all lags

    The two directions of a bidirectional layer share one tap, that of the current input; it is counted jointly, all
    others add up.

    Args:
        a: h inputs, and h outputs per direction.
        b: a form with the same inputs and outputs, or the same layer.
        horizon: number of taps on either side, or None for infinitely many.
    """
    P = cross_gramian(a.log_a, a.B, b.log_a, b.B, horizon=None if horizon is None else horizon - 1)
    (first, later), (first_b, later_b) = _taps(a), _taps(b)
    return first @ first_b.T + jnp.sum(later @ P @ jnp.swapaxes(later_b, 1, 2), axis=0)


def covariances(full: ModalSystem, reduced: ModalSystem, *, horizon: int | None = None) -> Covariances:
    """Returns all covariances between a full and a reduced layer."""
    pairs = ((full, full), (full, reduced), (reduced, reduced))
    return Covariances(*(output_covariance(a, b, horizon=horizon) for a, b in pairs))


def _taps(linear: ModalSystem) -> tuple[Array, Array]:
    """Returns the tap of the current input, both directions together, and the outputs of the states a step old."""
    log_a, B, C, D = linear
    h = B.shape[1]
    first = (D + 2 * (C @ B).real).reshape(-1, h, h).sum(0)
    return first, real_outputs(C * jnp.exp(log_a)).reshape(-1, h, 2 * len(log_a))


def squared_norm(form: QuadraticForm, V: Float[Array, "h h"], *, weight: float = 1.0) -> Float[Array, ""]:
    """Returns the squared h2 norm, the linear part's plus `weight` times the quadratic part's.

        ||S||^2 = tr(L V L^T) + weight sum_i tr(V N_i V N_i)

    Args:
        form: LQO form of h linear outputs.
        V: covariance of the linear outputs, `output_covariance`.
        weight: 1 is the h2 norm, 2 the variance under Gaussian white noise, 0 the h2 norm of the linear part.
    """
    return _linear(form, V) + weight * _quadratic(form, V)


def squared_error(form: QuadraticForm, found: Covariances, *, weight: float = 1.0) -> Float[Array, ""]:
    """Returns the squared h2 norm of the difference of two layers with the same gate.

        ||S - Sr||^2 = tr(L (V - X - X^T + Vr) L^T)
                       + weight sum_i [tr(V N_i V N_i) - 2 tr(X N_i X^T N_i) + tr(Vr N_i Vr N_i)]

    Right to about 1e-15 of the squared norm, so that an error below 1e-7 of the norm is noise.

    Args:
        form: LQO form of h linear outputs, that of the full layer.
        found: `covariances`.
        weight: as in `squared_norm`.
    """
    V, X, Vr = found
    quadratic = _quadratic(form, V) - 2 * _quadratic(form, X) + _quadratic(form, Vr)
    return _linear(form, V - 2 * X + Vr) + weight * quadratic


@partial(jax.jit, static_argnames=("horizon", "weight"))
def relative_error(
    full: LQO, reduced: ModalSystem, *, horizon: int | None = None, weight: float = 1.0
) -> Float[Array, ""]:
    """Returns ||S - Sr|| / ||S||, the predicted error of a block's output; 0 of a layer without output.

    Args:
        full: the layer.
        reduced: its replacement under the same white noise (`white`), behind the same gate.
        horizon: number of steps, or None.
        weight: as in `squared_norm`.
    """
    found = covariances(full.linear, reduced, horizon=horizon)
    norm = squared_norm(full.form, found.full, weight=weight)
    error = jnp.maximum(squared_error(full.form, found, weight=weight), 0)
    return jnp.sqrt(error / jnp.where(norm > 0, norm, 1))


@partial(jax.jit, static_argnames=("horizon", "weight"))
def for_balancing(full: LQO, *, horizon: int | None = None, weight: float = 1.0) -> ModalSystem:
    """Returns the linear system whose balanced truncation is that of the LQO form.

        Q = A^T Q A + C^T W C,    W = L^T L + weight sum_i N_i V N_i

    Since M_i P M_i = C^T N_i V N_i C, the quadratic outputs only weight the linear ones: C becomes W^{1/2} C. The two
    directions are stacked outputs, as always in balanced truncation.

    Args:
        full: the layer.
        horizon: number of steps, or None.
        weight: as in `squared_norm`.
    """
    linear, form = full
    V = output_covariance(linear, linear, horizon=horizon)
    # The gradient of the squared norm counts the quadratic part twice.
    W = (jax.grad(lambda V: squared_norm(form, V, weight=weight))(V) + form.L.T @ form.L) / 2
    values, vectors = jnp.linalg.eigh((W + W.T) / 2)
    root = jnp.sqrt(jnp.maximum(values, 0))[:, None] * vectors.T
    h = len(V)
    return linear._replace(
        C=(root @ linear.C.reshape(-1, h, linear.C.shape[1])).reshape(linear.C.shape),
        D=(root @ linear.D.reshape(-1, h, h)).reshape(linear.D.shape),
    )


def _linear(form: QuadraticForm, V: Float[Array, "h h"]) -> Float[Array, ""]:
    return jnp.sum((form.L @ V) * form.L)


def _quadratic(form: QuadraticForm, X: Float[Array, "h h"]) -> Float[Array, ""]:
    """Returns sum_i tr(X N_i X^T N_i) in three products of h x h matrices or so, whatever the number of outputs.

    With N_i = (f_i g_i^T + g_i f_i^T) / 2 + diag(k_i) the trace has three parts: of the outer products with each other,
    of the outer products with the diagonal, and of the diagonal with itself.
    """
    _, F, G, K = form
    FX, GX, FXt, GXt = F @ X, G @ X, F @ X.T, G @ X.T

    def along(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=1)

    # (f X f)(g X g) + (f X g)(g X f), the two ways of pairing the factors of an outer product.
    rank_two = jnp.sum(along(FX, F) * along(GX, G) + along(FX, G) * along(GX, F)) / 2
    return rank_two + jnp.sum(K * (FX * GX + FXt * GXt)) + jnp.sum((K.T @ K) * X**2)
