"""From the errors of layers to that of the network: an upper bound, and what it says about the layers' importance.

A residual network of LQO blocks, T steps,

    u_l = N_l(z_{l-1}),    z_l = z_{l-1} + S_l(u_l),    ||u_l||_2 <= R_l,    N_l Lipschitz with nu_l

and the same with reduced S_r,l. With eps_l = ||S_l - S_r,l||_h2, norms of sequences being l2:

    ||S_l u - S_r,l u|| <= sqrt(T) eps_l sqrt(R_l^2 + R_l^4)            Cauchy-Schwarz, on both kernels
    ||S_l u - S_l w|| <= (||G_l||_inf + 2 R_l sqrt(T) ||H_l||) ||u - w||      G_l the linear, H_l the quadratic part
    kappa_l = 1 + nu_l (||G_l||_inf + 2 R_l sqrt(T) ||H_l||)

    ||z_L - z_r,L|| <= sqrt(T) sum_l (prod_{m > l} kappa_m) sqrt(R_l^2 + R_l^4) eps_l

The constants kappa are those of the original blocks alone, so at given orders the bound is least where every eps_l is,
and since kappa >= 1 its weights rise towards the input. It is a bound for such networks only, behind layer
normalisation for instance, which bounds R_l. Gated networks are LQO to second order, and their kappa and R are so large
that the weights differ by many powers of ten: for them see `bound_weights`, which are weights and bound nothing.

Source: a bound of the kind of Sakamoto and Sato (arXiv 2510.14542), derived anew; their constants are not known to us.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.reduction.layer import Layer
from s5c.reduction.quadratic import LQO, covariances, output_covariance, squared_error, squared_norm
from s5c.ssm.modal import ModalSystem, from_ssm
from s5c.ssm.norms import hinf_ceiling
from s5c.types import Array, Float


class Block(NamedTuple):
    """One block of a residual network of LQO systems, before and after its reduction.

    Attributes:
        full: from the normalised input to the block's output; nothing folded in.
        reduced: its linear system after the reduction, behind the same form.
        radius: R, bound of the l2 norm of the normalised input sequence.
        lipschitz: nu of the normalisation.
    """

    full: LQO
    reduced: ModalSystem
    radius: Float[Array, ""]
    lipschitz: Float[Array, ""]


class DeepBound(NamedTuple):
    """Terms of the bound, one per block.

    Attributes:
        errors: eps_l, the h2 errors.
        kappa: by how much a block amplifies an error that it receives, at most.
        weights: what eps_l is multiplied with.
        value: their sum, the bound of the l2 norm of the error after the last block.
    """

    errors: Float[Array, "layers"]
    kappa: Float[Array, "layers"]
    weights: Float[Array, "layers"]
    value: Float[Array, ""]


def deep_bound(blocks: Sequence[Block], *, steps: int) -> DeepBound:
    """Returns the upper bound of the output error of a residual network of LQO blocks (see the module).

    Args:
        blocks: from input to output, float64, stable.
        steps: length T of the sequences.
    """
    errors, kappa, local = [], [], []
    for full, reduced, radius, lipschitz in blocks:
        errors.append(jnp.sqrt(jnp.maximum(squared_error(full.form, covariances(full.linear, reduced)), 0)))
        kappa.append(1 + lipschitz * local_gain(full, radius, steps=steps))
        local.append(jnp.sqrt(steps * (radius**2 + radius**4)))
    amplified = jnp.stack(kappa)
    weights = bound_weights(amplified) * jnp.stack(local)
    return DeepBound(jnp.stack(errors), amplified, weights, weights @ jnp.stack(errors))


def local_gain(block: LQO, radius: Float[Array, ""], *, steps: int) -> Float[Array, ""]:
    """Returns a Lipschitz constant of an LQO system on inputs of l2 norm up to `radius`, over `steps` steps.

        ||L G||_inf + 2 radius sqrt(steps) ||H||,    ||H||^2 = sum_i tr(V N_i V N_i)

    with G = G_f + conj(G_b) in a bidirectional layer. The norm enters by an upper bound that is about 1% above it
    (`s5c.ssm.norms.hinf_ceiling`): a bound may not be built on an estimate from below.
    """
    log_a, B, C, D = block.linear
    h = B.shape[1]
    directions = len(C) // h
    outputs, feedthrough = (jnp.concatenate([block.form.L @ part for part in jnp.split(x, directions)]) for x in (C, D))
    gain = hinf_ceiling(ModalSystem(log_a, B, outputs, feedthrough), bidirectional=directions == 2)
    V = output_covariance(block.linear, block.linear)
    squared = squared_norm(block.form, V) - squared_norm(block.form, V, weight=0.0)
    return gain + 2 * radius * jnp.sqrt(steps * jnp.maximum(squared, 0))


def layer_norm_constants(
    gain: Float[Array, "h"], offset: Float[Array, "h"], *, epsilon: float, steps: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns R and nu of layer normalisation, gain (z - mean) / sqrt(variance + epsilon) + offset.

    R = sqrt(T) (sqrt(h) max |gain| + ||offset||),    nu = max |gain| / sqrt(epsilon)
    """
    largest = jnp.max(jnp.abs(gain))
    radius = jnp.sqrt(steps) * (jnp.sqrt(len(gain)) * largest + jnp.linalg.norm(offset))
    return radius, largest / np.sqrt(epsilon)


def amplifications(
    layers: Sequence[Layer], full: Sequence[LQO], *, horizon: int | None = None
) -> Float[np.ndarray, "layers"]:
    """Returns by how much each block amplifies a small error in its residual stream, in the mean square.

        kappa^2 = 1 + (tr(L V' L^T) + 4 sum_i tr(V N_i V' N_i)) / h

    with V' the covariance of v where white noise of deviation 1 enters before the normalisation. It stands in for the
    worst case of `deep_bound`. Where the scale of the normalisation is not fixed (layer normalisation), its gain is
    taken: a stream of deviation 1.

    Args:
        layers: double precision.
        full: their LQO forms.
        horizon: number of steps, or None.
    """
    return np.array([_amplification(*pair, horizon=horizon) for pair in zip(layers, full, strict=True)])


@partial(jax.jit, static_argnames="horizon")
def _amplification(layer: Layer, full: LQO, *, horizon: int | None) -> Float[Array, ""]:
    assert layer.gate is not None
    linear, form = full
    scale = layer.gate.gain if layer.gate.scale is None else layer.gate.scale
    plain = from_ssm(layer.system)
    entering = plain if scale is None else plain._replace(B=plain.B * scale, D=plain.D * scale)
    V, small = (output_covariance(a, a, horizon=horizon) for a in (linear, entering))
    both = 2 * jnp.sum(jax.grad(partial(squared_norm, form))(V) * small)
    return jnp.sqrt(1 + (both - squared_norm(form, small, weight=0.0)) / len(V))


def bound_weights(kappa: Float[Array, "layers"] | Float[np.ndarray, "layers"]) -> Float[Array, "layers"]:
    """Returns prod_{m > l} kappa_m: by how much the blocks behind amplify an error that block l makes."""
    kappa = jnp.asarray(kappa)
    return jnp.flip(jnp.cumprod(jnp.flip(jnp.append(kappa[1:], 1.0))))
