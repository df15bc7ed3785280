"""Pallas kernels for TPUs: each block of time is projected, run and projected back without leaving the chip.

The kernels (`s5c.ssm.kernel.tpu`) read the input once, write the output once and keep the state before every block; the
derivative recomputes the others. Around them XLA turns sequences time-major, one more pass over input and output.

Interpreted, lowered, and compiled by libtpu for v4, v5e, v5p and v6e; never run on a TPU.
"""

from __future__ import annotations

import jax.numpy as jnp

from s5c.errors import UserError
from s5c.ssm.call import Call, RealSystem, States, total
from s5c.ssm.kernel import tpu
from s5c.types import Array, Features, Float

INTERPRET = False
"""Evaluate the kernels in XLA on any platform: for tests. Very slow, and no proof that a TPU takes them."""

LANES, SUBLANES = 128, 8
"""Of a float32 register."""

REGISTERS = 8
"""Registers that the real parts of a tile's states may fill, and again the imaginary ones: with the gradient of the
eigenvalues about half of the 64 there are. That many independent sums hide the latency of one; an estimate."""

VMEM = 12 * 2**20
"""Bytes that a kernel is planned to take. It gets 16 MiB by default; the compiler has its own use for the rest."""

LONGEST = 256
"""Most steps in a block."""


def unavailable(platform: str) -> str | None:
    """Returns why this backend cannot run on a platform, or None if it can."""
    if INTERPRET or platform == "tpu":
        return None
    return f"it is a kernel for TPUs and this platform is {platform!r}."


def forward(
    call: Call, system: RealSystem, u: Features, x0: States
) -> tuple[Float[Array, "b l out"], States, tuple[Array, ...]]:
    """Returns the output, the last state of every direction, and the states before every block, padded."""
    frame = Frame(system, u)
    inputs = frame.steps_first(u)
    results = [
        tpu.run(frame.plan(reverse, call.precision), *frame.weights(system, i), inputs, frame.tiled(x0[i]))
        for i, reverse in enumerate(call.directions)
    ]
    y, last, starts = zip(*results, strict=True)
    return frame.batch_first(total(y), system.W_out[0].shape[1]), tuple(map(frame.untiled, last)), starts


def backward(
    call: Call,
    system: RealSystem,
    u: Features,
    x0: States,
    starts: tuple[Array, ...],
    gy: Float[Array, "b l out"],
    g_last: States,
) -> tuple[RealSystem, Features, States]:
    """Returns the gradients of the system, the input and the starting states."""
    frame = Frame(system, u)
    inputs, g = frame.steps_first(u), frame.steps_first(gy.astype(system.W_in.dtype))
    shared, d_out, dx0 = [], [], []
    for i, reverse in enumerate(call.directions):
        plan = frame.plan(reverse, call.precision)
        d_a, dW_in, dW_out, du, d_start = tpu.differentiate(
            plan, *frame.weights(system, i), inputs, starts[i], g, frame.tiled(g_last[i])
        )
        shared.append((frame.states(jnp.sum(d_a, axis=0)), frame.states(dW_in[: u.shape[2]]), du.astype(g.dtype)))
        d_out.append(frame.states(dW_out.T[: gy.shape[2]]).T)
        dx0.append(frame.untiled(d_start))
    d_a, dW_in, du = total(shared)
    d_re, d_im = jnp.split(d_a, 2)
    return RealSystem((d_re, d_im), dW_in, tuple(d_out)), frame.batch_first(du, u.shape[2]), tuple(dx0)


class Frame:
    """Sizes of one call on the chip: channels padded to whole lanes, sequences to whole tiles, time to whole blocks.

    A TPU lays arrays out in tiles of 8 x 128, so padded channels take no memory that they would not take anyway.
    """

    def __init__(self, system: RealSystem, u: Features) -> None:
        self.batch, self.length, h = u.shape
        self.p = system.a[0].shape[0]
        self.h, self.lanes, self.out = (_up(n, LANES) for n in (h, self.p, system.W_out[0].shape[1]))
        sublanes = SUBLANES * 4 // u.dtype.itemsize
        most = max(1, REGISTERS * LANES // self.lanes * SUBLANES // sublanes) * sublanes
        tiles = -(-self.batch // most)
        self.rows = _up(-(-self.batch // tiles), sublanes)
        self.size = block(self.length, self._longest(u.dtype.itemsize))
        self.blocks = -(-self.length // self.size)

    def _longest(self, itemsize: int) -> int:
        """Returns how many steps fit into VMEM in the derivative, which needs more than the forward pass."""
        twop = 2 * self.lanes
        fixed = 4 * 2 * (self.h + self.out) * twop + 4 * 10 * self.rows * twop  # matrices and gradients; single states
        moved = 2 * (2 * self.h * itemsize + 4 * self.out)  # u, du and gy, the next block while this one is worked on
        kept = 4 * 2 * twop  # states and adjoint
        between = 4 * max(self.h, self.out, twop)
        longest = (VMEM - fixed) // (self.rows * (moved + kept + between))
        if longest < 1:
            raise UserError(
                f"Backend pallas_tpu keeps both matrices of a layer and their gradients in {VMEM >> 20} MiB on the "
                f"chip: {self.h} inputs, {self.out} outputs and {self.lanes} states (rounded up to {LANES}) are too "
                "many. Use another backend, such as lifted or associative."
            )
        return min(LONGEST, longest)

    def plan(self, reverse: bool, precision: str) -> tpu.Plan:
        """Returns what the kernels need to know beyond the shapes."""
        return tpu.Plan(self.rows, self.size, self.blocks * self.size - self.length, reverse, precision, INTERPRET)

    def weights(self, system: RealSystem, direction: int) -> tuple[Array, Array, Array]:
        """Returns a in one row, W_in and W_out."""
        W_in = _pad(self._spread(system.W_in), self.h)
        W_out = _pad(self._spread(system.W_out[direction].T), self.out).T
        return self._spread(jnp.concatenate(system.a)[None]), W_in, W_out

    def steps_first(self, x: Float[Array, "b l h"]) -> Float[Array, "steps rows lanes"]:
        """Returns a sequence time-major: one step of a tile is then whole registers."""
        return _pad(jnp.swapaxes(x, 0, 1), self.blocks * self.size, _up(self.batch, self.rows), _up(x.shape[2], LANES))

    def batch_first(self, x: Float[Array, "steps rows lanes"], channels: int) -> Float[Array, "b l h"]:
        """Undoes `steps_first`."""
        return jnp.swapaxes(x[: self.length, : self.batch, :channels], 0, 1)

    def tiled(self, x: Float[Array, "b twop"]) -> Float[Array, "rows lanes"]:
        """Pads one state of every sequence."""
        return _pad(self._spread(x), _up(self.batch, self.rows))

    def untiled(self, x: Float[Array, "rows lanes"]) -> Float[Array, "b twop"]:
        """Undoes `tiled`."""
        return self.states(x[: self.batch])

    def _spread(self, x: Float[Array, "rows twop"]) -> Float[Array, "rows lanes"]:
        """Pads real and imaginary parts apart, so that each is whole lanes."""
        return jnp.concatenate([_pad(part, len(x), self.lanes) for part in jnp.split(x, 2, axis=-1)], axis=-1)

    def states(self, x: Float[Array, "*rows lanes"]) -> Float[Array, "*rows twop"]:
        """Returns the real and imaginary parts side by side without their padding."""
        return jnp.concatenate([x[..., : self.p], x[..., self.lanes : self.lanes + self.p]], axis=-1)


def block(length: int, longest: int) -> int:
    """Returns the steps of a block: a divisor of the length, unless all are shorter than half the longest block."""
    longest = min(length, longest)
    divisors = (steps for steps in range(longest, longest // 2, -1) if length % steps == 0)
    return next(divisors, -(-length // -(-length // longest)))


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _pad(x: Array, *sizes: int) -> Array:
    return jnp.pad(x, [(0, size - n) for n, size in zip(x.shape, (*sizes, *x.shape[len(sizes) :]), strict=True)])
