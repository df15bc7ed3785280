"""Several steps folded into one: time runs in chunks, and only states between chunks exist. Plain XLA, any platform.

Meant for accelerators without a kernel, where moving every state through memory costs more than the arithmetic that
states save. With T steps a chunk, U the inputs of a chunk side by side and x the state before it,

    outputs = U M + x O,    state after = a^T x + U K,

where M is block Toeplitz with blocks W_in a^k W_out. Directions share the products: U [M + M~, K, K~] is one.

Every output of a chunk has all its inputs as terms, some times zero, so a NaN or Inf reaches back up to T - 1 steps
against the direction of the run, to the beginning of its chunk; never into another sequence of the batch.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.ssm.call import Call, Pair, RealSystem, States, before, conjugate, matmul, outer, times, total
from s5c.types import Array, Features, Float

CAUSAL = False
"""What is no number reaches back to the beginning of its chunk."""

LONGEST = 8
"""Most steps in a chunk, which also bounds the number of powers of `a` and their rounding."""

BALANCE = 4600
"""Weight of a state's memory traffic against the arithmetic of M: T steps in a chunk add 2 T h out operations to each
and leave it 1 / T of about 10 passes over 8 p bytes; at 115 operations per byte, TF32 products on an H100 by its data
sheet, the sum is least at T = sqrt(4600 p / (h out)). An estimate, not a measurement."""


def chunk(features: int, out: int, states: int) -> int:
    """Returns how many steps to fold into one: a power of two, half as many when features and outputs double.

    Args:
        features: inputs h.
        out: outputs.
        states: complex states p, summed over the directions.
    """
    best = math.sqrt(BALANCE * states / (features * out))
    return min(LONGEST, 2 ** max(0, round(math.log2(best))))


class Lifted(NamedTuple):
    """The system over chunks, in order of time for both directions.

    Attributes:
        decay: per chunk, a to the power of its steps; (n, 1, p) each.
        inputs: per part of the cut, [M, K of every direction].
        outputs: per part of the cut, O of every direction, one below the other.
    """

    decay: Pair
    inputs: tuple[Float[Array, "_ _"], ...]
    outputs: tuple[Float[Array, "_ _"], ...]


def forward(
    call: Call, system: RealSystem, u: Features, x0: States
) -> tuple[Float[Array, "b l out"], States, tuple[Array, ...]]:
    """Returns the output, the last state of every direction, and the states before every chunk."""
    cut = _Cut(system, u.shape[1])
    lifted = _lift(call, cut, system)
    driven = [matmul(call, U, W) for U, W in zip(cut.parts(u), lifted.inputs, strict=True)]
    widths = [W.shape[1] for W in lifted.outputs]
    ends = _stacked([z[..., width:] for z, width in zip(driven, widths, strict=True)])
    starts, last = [], []
    for x, end, reverse in zip(x0, jnp.split(ends, len(x0), axis=-1), call.directions, strict=True):
        states = _scan(lifted.decay, end, x, reverse)
        starts.append(before(states, x, reverse))
        last.append(states[0 if reverse else -1])
    free = [matmul(call, X, W) for X, W in zip(cut.unstacked(starts), lifted.outputs, strict=True)]
    y = [z[..., :width] + response for z, width, response in zip(driven, widths, free, strict=True)]
    return cut.joined(y), tuple(last), tuple(starts)


def backward(
    call: Call,
    system: RealSystem,
    u: Features,
    x0: States,
    starts: tuple[Array, ...],
    gy: Float[Array, "b l out"],
    g_last: States,
) -> tuple[RealSystem, Features, States]:
    """Returns the gradients of the system, the input and the starting states: the adjoint, too, runs by chunk."""
    cut = _Cut(system, u.shape[1])
    lifted, unlift = jax.vjp(partial(_lift, call, cut), system)
    g = cut.parts(gy.astype(system.W_in.dtype))
    g_starts = _stacked([matmul(call, G, W.T) for G, W in zip(g, lifted.outputs, strict=True)])
    adjoints, d_decay, dx0 = [], [], []
    for i, g_start in enumerate(jnp.split(g_starts, len(starts), axis=-1)):
        reverse = call.directions[i]
        # The adjoint comes back over the step *after* a chunk. (The factor that wraps around is used by no one.)
        following = jax.tree.map(partial(jnp.roll, shift=1 if reverse else -1, axis=0), conjugate(lifted.decay))
        s = _scan(following, before(g_start, g_last[i], not reverse), jnp.zeros_like(x0[i]), not reverse)
        d_factor, carried = jax.vjp(times, lifted.decay, starts[i])[1](s)
        adjoints.append(s)
        d_decay.append(d_factor)
        dx0.append((g_start + carried)[-1 if reverse else 0])
    gz = [jnp.concatenate(pair, axis=-1) for pair in zip(g, cut.unstacked(adjoints), strict=True)]
    d_lifted = Lifted(
        decay=total(d_decay),
        inputs=tuple(outer(call, U, Z) for U, Z in zip(cut.parts(u), gz, strict=True)),
        outputs=tuple(outer(call, X, G) for X, G in zip(cut.unstacked(starts), g, strict=True)),
    )
    du = [matmul(call, Z, W.T) for Z, W in zip(gz, lifted.inputs, strict=True)]
    return unlift(d_lifted)[0], cut.joined(du), tuple(dx0)


class _Cut:
    """Cuts time into chunks: one part of equal chunks and, if steps remain, a part of one shorter chunk."""

    def __init__(self, system: RealSystem, length: int) -> None:
        features, states = system.W_in.shape[0], system.a[0].shape[0] * len(system.W_out)
        steps = min(length, chunk(features, system.W_out[0].shape[1], states))
        number, rest = divmod(length, steps)
        self.sizes = [(number, steps)] + ([(1, rest)] if rest else [])  # of every part: chunks, steps in each

    def parts(self, x: Float[Array, "b l h"]) -> list[Float[Array, "b _n _th"]]:
        """Returns the steps of every chunk side by side."""
        b, _, h = x.shape
        n, steps = self.sizes[0]
        pieces = jnp.split(x, [n * steps], axis=1) if len(self.sizes) > 1 else [x]
        return [piece.reshape(b, n, steps * h) for piece, (n, steps) in zip(pieces, self.sizes, strict=True)]

    def joined(self, parts: list[Array]) -> Float[Array, "b l h"]:
        """Undoes `parts`."""
        pieces = [x.reshape(x.shape[0], n * steps, -1) for x, (n, steps) in zip(parts, self.sizes, strict=True)]
        return jnp.concatenate(pieces, axis=1)

    def unstacked(self, states: list[Array] | tuple[Array, ...]) -> list[Float[Array, "b _n twopd"]]:
        """Returns the states (n, b, 2p) of all directions side by side, batch first, by part."""
        together = jnp.swapaxes(jnp.concatenate(states, axis=-1), 0, 1)
        return jnp.split(together, [self.sizes[0][0]], axis=1) if len(self.sizes) > 1 else [together]


def _stacked(parts: list[Array]) -> Float[Array, "n b c"]:
    return jnp.swapaxes(jnp.concatenate(parts, axis=1), 0, 1)


def _lift(call: Call, cut: _Cut, system: RealSystem) -> Lifted:
    """Folds the system; products of its own matrices are exact whatever `call.precision` says."""
    p = system.a[0].shape[0]
    powers = [(jnp.ones_like(system.a[0]), jnp.zeros_like(system.a[0]))]
    for _ in range(cut.sizes[0][1]):
        re, im = jnp.split(times(system.a, jnp.concatenate(powers[-1])), 2)
        powers.append((re, im))
    to_the = jax.tree.map(lambda *leaves: jnp.stack(leaves), *powers)  # row k is a^k
    decay = [jax.tree.map(lambda a, n=n, k=k: jnp.broadcast_to(a[k], (n, 1, p)), to_the) for n, k in cut.sizes]
    folded = [_fold(call.directions, to_the, system, steps) for _, steps in cut.sizes]
    return Lifted(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *decay), *map(tuple, zip(*folded, strict=True)))


def _fold(directions: tuple[bool, ...], powers: Pair, system: RealSystem, steps: int) -> tuple[Array, Array]:
    """Returns the two matrices of one chunk length, as `Lifted.inputs` and `Lifted.outputs` have them."""
    (h, twop), out = system.W_in.shape, system.W_out[0].shape[1]
    at = np.arange(steps)
    to_every_power = jax.vmap(times, in_axes=(0, None))
    driven = to_every_power((powers[0][:steps], powers[1][:steps]), system.W_in)  # (k, h, 2p): state k steps later
    exact = partial(matmul, Call((), "float32"))
    M, K, O = [], [], []
    for W, reverse in zip(system.W_out, directions, strict=True):
        order = -1 if reverse else 1
        lag = order * (at[None, :] - at[:, None])  # steps from an input (row) to an output (column)
        response = jnp.concatenate([exact(driven, W), jnp.zeros((1, h, out), W.dtype)])
        M.append(response[np.where(lag < 0, steps, lag)])
        K.append(driven[::-order].reshape(steps * h, twop))
        # x a^k W as a product of x alone: a^k acts on the rows of W through its conjugate.
        after = jax.tree.map(lambda a, order=order: a[1 : steps + 1][::order], conjugate(powers))
        O.append(to_every_power(after, W.T).transpose(2, 0, 1).reshape(twop, steps * out))
    toeplitz = total(M).transpose(0, 2, 1, 3).reshape(steps * h, steps * out)
    return jnp.concatenate([toeplitz, *K], axis=1), jnp.concatenate(O)


def _scan(
    decay: Pair, b: Float[Array, "n b twop"], x0: Float[Array, "b twop"], reverse: bool
) -> Float[Array, "n b twop"]:
    """Runs x_k = decay_k x_{k-1} + b_k as a tree over chunks; returns all states."""
    first = -1 if reverse else 0
    b = b.at[first].add(times((decay[0][first], decay[1][first]), x0))
    re, im = jnp.split(b, 2, axis=-1)

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return right[0] * left[0], right[0] * left[1] + right[1]

    elements = (jax.lax.complex(*decay), jax.lax.complex(re, im))  # complex compiles faster than four real arrays
    x = jax.lax.associative_scan(combine, elements, reverse=reverse)[1]
    return jnp.concatenate([x.real, x.imag], axis=-1)
