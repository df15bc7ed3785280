"""`Moments`: second moments of a layer's states, input and output on calibration data, and the coordinates they are in.

A layer's output is linear in its states: everything that least squares can say about which states to keep, and with
which output matrix, is in these sums. Their size does not depend on the data.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over the valid steps of calibration sequences, float64, of z = [x, u, 1] and of the output y.

    x holds the states as real numbers, [Re, Im] of the stored half, forward direction first: n = 2p numbers, or 4p in a
    bidirectional layer. u is the layer's input (m features; one per channel with a leading axis), y what the states are
    to explain: the output of the full layer with feedthrough and bias, whichever network x and u were measured in.

    Attributes:
        zz: sum of z z^T, n + m + 1 rows.
        yz: sum of y z^T.
        yy: sum of y^2 per output.
        count: valid steps.
        energy: sum of y^2 over all outputs of the layer, also where the other fields belong to one of its channels.
    """

    zz: Float[Array, "*channels k k"]
    yz: Float[Array, "*channels h k"]
    yy: Float[Array, "*channels h"]
    count: Float[Array, "*channels"]
    energy: Float[Array, "*channels"]

    @classmethod
    def of(
        cls, x: Float[Array, "b l n"], u: Float[Array, "b l m"], y: Float[Array, "b l h"], valid: Bool[Array, "b l"]
    ) -> Moments:
        """Returns the sums over one batch of one system; call it inside `jax.enable_x64(True)`.

        Args:
            x: real states (`real_states`).
            u: input.
            y: output to be explained.
            valid: which steps count.
        """
        z = jnp.concatenate([x, u, jnp.ones((*x.shape[:2], 1), x.dtype)], axis=-1)
        # Not a product with the mask: what is left out need not be finite.
        z, y = (jnp.where(valid[..., None], a, 0).reshape(-1, a.shape[-1]).astype(jnp.float64) for a in (z, y))
        yy = jnp.sum(y**2, axis=0)
        return cls(z.T @ z, y.T @ z, yy, jnp.sum(valid, dtype=jnp.float64), jnp.sum(yy))

    def __add__(self, other: Moments) -> Moments:
        return jax.tree.map(jnp.add, self, other)

    @property
    def states(self) -> int:
        """Number n of real state features."""
        return self.zz.shape[-1] - self.yz.shape[-2] - 1

    def covariance(self, directions: int) -> Float[Array, "*channels n _n"]:
        """Returns the mean of x x^T over steps and directions, on the states sqrt(2) [Re x, Im x] of one of them.

        Args:
            directions: 2 where x holds the states of a backward direction too, which has the same poles; else 1.
        """
        n = self.states // directions
        blocks = [self.zz[..., i * n : (i + 1) * n, i * n : (i + 1) * n] for i in range(directions)]
        return 2 * sum(blocks) / (directions * jnp.maximum(self.count, 1)[..., None, None])

    def of_states(self, keep: Bool[Array, "*channels p"]) -> Moments:
        """Returns what would be measured if the other states were always zero (`s5c.reduction.slots.silenced`)."""
        silent = jnp.concatenate([~keep] * (self.states // keep.shape[-1]), axis=-1)
        silent = jnp.pad(silent, [(0, 0)] * (silent.ndim - 1) + [(0, self.zz.shape[-1] - self.states)])
        zz = jnp.where(silent[..., None] | silent[..., None, :], 0, self.zz)
        return dataclasses.replace(self, zz=zz, yz=jnp.where(silent[..., None, :], 0, self.yz))


jax.tree_util.register_dataclass(Moments, data_fields=["zz", "yz", "yy", "count", "energy"], meta_fields=[])


def real_states(x: Array, x_backward: Array | None = None) -> Array:
    """Returns complex states of both directions as the real features x of `Moments`, along the last axis."""
    directions = [x] if x_backward is None else [x, x_backward]
    return jnp.concatenate([part for d in directions for part in (d.real, d.imag)], axis=-1)


def coefficients(system: DiagonalSSM) -> Float[Array, "*channels h n"]:
    """Returns the output matrix of a system on the real states: y = coefficients x + D u + bias.

    2 Re(C x) = [2 Re C, -2 Im C] [Re x; Im x]
    """
    directions = [system.C] if system.C_backward is None else [system.C, system.C_backward]
    return jnp.concatenate([part for C in directions for part in (2 * C.real, -2 * C.imag)], axis=-1)


def with_coefficients(system: DiagonalSSM, matrix: Float[Array, "*channels h n"]) -> DiagonalSSM:
    """Returns the system with another output matrix; the inverse of `coefficients`."""
    parts = jnp.split(matrix / 2, matrix.shape[-1] // system.state_dim, axis=-1)
    C, *backward = (jax.lax.complex(re, -im) for re, im in zip(parts[::2], parts[1::2], strict=True))
    return dataclasses.replace(system, C=C, C_backward=backward[0] if backward else None)
