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
normalisation for instance, which bounds R_l: `output_bound`, for model.activation=lqo with model.norm=layer. Gated
networks are LQO to second order only, and no bound of theirs follows: `bound_weights` with `amplifications` are weights
for them, and bound nothing.

Source: a bound of the kind of Sakamoto and Sato (arXiv 2510.14542), derived again; their constants are not known to us.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.reduction.layer import Layer
from s5c.reduction.quadratic import LQO, covariances, output_covariance, quadratic_form, squared_error, squared_norm
from s5c.reduction.slots import padded
from s5c.reduction.unstable import count
from s5c.ssm.modal import ModalSystem, from_ssm
from s5c.ssm.norms import hinf_ceiling
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float

LAYER_NORM_EPSILON = 1e-6
"""What the networks' layer normalisation adds to the variance: Flax's default."""


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


_deep_bound = jax.jit(deep_bound, static_argnames="steps")


def output_bound(
    layers: Sequence[Layer],
    reduced: Sequence[DiagonalSSM],
    decoder: Float[Any, "h classes"],
    *,
    steps: int,
    pooling: str = "mean",
) -> float | None:
    """Returns an upper bound of how far a reduction moves the logits, for any input whatever; None where there is none.

        ||logits - logits_r||_2 <= ||W||_2 ||z_L - z_r,L|| / sqrt(T)    under mean pooling, without the root under last

    with the bound of `deep_bound`, in exact arithmetic. It holds for residual blocks of explicit quadratic outputs
    behind layer normalisation, with stable poles and no output constant, on sequences of T steps without padding, where
    nothing but the systems changes. It is far above the error of any input: what layer normalisation may amplify is
    1 / sqrt(epsilon), and every layer behind multiplies by it.

    Args:
        layers: from input to output, with their gates, double precision.
        reduced: their replacements.
        decoder: kernel of the last linear map.
        steps: T.
        pooling: mean | last.
    """
    if not all(map(_of_the_class, layers, reduced)):
        return None
    with jax.enable_x64(True):
        blocks = []
        for layer, system in zip(layers, reduced, strict=True):
            gate = layer.gate
            assert gate is not None and gate.gain is not None and gate.offset is not None, "looked at before"
            constants = layer_norm_constants(gate.gain, gate.offset, epsilon=LAYER_NORM_EPSILON, steps=steps)
            form = quadratic_form(gate, jnp.zeros((1, len(gate.gain))))
            padded_ = from_ssm(padded(system, layer.slots))  # one program for every order
            blocks.append(Block(LQO(from_ssm(layer.system), form), padded_, *constants))
        error = float(_deep_bound(blocks, steps=steps).value)
        norm = float(jnp.linalg.norm(jnp.asarray(decoder, jnp.float64), 2))
    bound = norm * error / (steps**0.5 if pooling == "mean" else 1.0)
    return bound if math.isfinite(bound) else None


def _of_the_class(layer: Layer, reduced: DiagonalSSM) -> bool:
    gate = layer.gate
    if gate is None or gate.activation != "lqo" or gate.gain is None or gate.scale is not None:
        return False
    systems = (layer.system, reduced)
    return all(system.bias is None and count(system) == 0 for system in systems)


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
