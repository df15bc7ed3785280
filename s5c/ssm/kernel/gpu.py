"""The recurrence as a kernel for NVIDIA Hopper, in Pallas Mosaic GPU: states stay on the chip, time streams through.

A thread holds one state of one sequence in registers from the first step to the last. The copy engine brings tiles of
`ROWS` steps into shared memory ahead of their use and carries results away behind it, so every number crosses the
memory bus once each way and a step costs two dependent multiply-adds. There is one program for every direction, group
of sequences and group of states; programs share nothing.

Nothing needs to divide anything: the copy engine makes up what lies outside an array and drops what is stored there.
Only the number of states must be a multiple of `ALIGNMENT`, because rows have to start at multiples of 16 bytes.

Large arrays are (sequences, time, parts, states), small ones (parts, sequences, states); the parts are the real and
the imaginary one, of every direction in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from s5c.ssm.call import Pair, conjugate
from s5c.types import Array, Float

ALIGNMENT = 4
"""What the number of states must be a multiple of."""

SEQUENCES, STATES = 4, 32
"""What a program carries, one state a thread: a warp for each sequence."""

ROWS = 16
"""Steps in a tile. Its rows are all read before the first step is made, which hides the latency of shared memory."""

TILES_ALOFT = 4
"""Tiles in shared memory at once: one in use, the others arriving or leaving."""

SHARED_MEMORY = 220 * 1024
"""Bytes that tiles may take, of the 227 KiB of a program."""

PARTS = (0, 1)


class Plan(NamedTuple):
    """How a call is laid over the device.

    Attributes:
        shape: sequences, steps and states of the call.
        directions: per direction, whether it runs against time.
    """

    shape: tuple[int, int, int]
    directions: tuple[bool, ...]

    @property
    def programs(self) -> tuple[int, int, int]:
        """Programs by direction, group of sequences and group of states."""
        return len(self.directions), pl.cdiv(self.shape[0], SEQUENCES), pl.cdiv(self.shape[2], STATES)

    @property
    def tiles(self) -> int:
        """Tiles in time."""
        return pl.cdiv(self.shape[1], ROWS)

    def mirrored(self, direction: Any, index: Any, size: int) -> Any:
        """Returns the place of the index-th of `size` things in running order."""
        if len(set(self.directions)) == 1:
            return size - 1 - index if self.directions[0] else index
        return jnp.where(direction == self.directions.index(True), size - 1 - index, index)

    def rows(self, direction: Any, k: Any) -> list[tuple[Any, Any]]:
        """Returns the rows of the k-th tile, each with whether it is a step of the sequence (None: all are)."""
        rows = [self.mirrored(direction, i, ROWS) for i in range(ROWS)]
        if self.shape[1] % ROWS == 0:
            return [(row, None) for row in rows]
        first = self.mirrored(direction, k, self.tiles) * ROWS
        return [(row, first + row < self.shape[1]) for row in rows]

    def stream(self, *, both: bool) -> _Block:
        """Returns the tiles of a large array, which has parts for every direction or (not `both`) one pair of them."""
        return _Block(
            (SEQUENCES, ROWS, 2, STATES),
            lambda d, b, p, k: (b, self.mirrored(d, k, self.tiles), d if both else 0, p),
        )

    def per_direction(self) -> _Block:
        """Returns the blocks of a small array with parts for every direction."""
        return _Block((2, SEQUENCES, STATES), lambda d, b, p, k: (d, b, p))

    def shared(self) -> _Block:
        """Returns the blocks of a small array that is the same for all directions and groups of sequences."""
        return _Block((2, SEQUENCES, STATES), lambda d, b, p, k: (0, 0, p))


class _Block(NamedTuple):
    """Size of a block, and its place (in blocks) for a direction, group of sequences, group of states and tile."""

    shape: tuple[int, ...]
    place: Callable[..., tuple[Any, ...]]


Carry = tuple[Array, ...]
Tile = Callable[..., Carry]
"""tile(load, direction, k, references to input and output blocks, carry) -> carry, for the k-th tile in running order.
The first carry holds zeros or nothing of meaning."""


def scan(
    a: Pair, b: Float[Array, "b l 2 p"], x0: Float[Array, "parts b p"], directions: tuple[bool, ...], interpret: bool
) -> Float[Array, "b l parts p"]:
    """Runs x_k = a x_{k-1} + b_k in every direction, each from its own `x0`; returns all states.

    Args:
        a: eigenvalues.
        b: inputs, the same for all directions.
        x0: starting states.
        directions: per direction, whether it runs against time.
        interpret: run by Pallas' interpreter, on any device.
    """
    batch, length, _, p = b.shape
    plan = Plan((batch, length, p), directions)
    states = jax.ShapeDtypeStruct((batch, length, 2 * len(directions), p), b.dtype)
    (x,) = _run(
        partial(_scan_tile, plan),
        plan,
        inputs=[(_spread(a, plan), plan.shared()), (x0, plan.per_direction()), (b, plan.stream(both=False))],
        outputs=[(states, plan.stream(both=True))],
        carried=2,
        interpret=interpret,
    )
    return x


def adjoint_scan(
    a: Pair,
    g: Float[Array, "b l parts p"],
    x: Float[Array, "b l parts p"],
    directions: tuple[bool, ...],
    interpret: bool,
) -> tuple[Float[Array, "b l parts p"], Float[Array, "parts b p"]]:
    """Runs s_k = g_k + conj(a) s_{k+1} against every direction, and sums s_{k+1} conj(x_k) on the way.

    Args:
        a: eigenvalues.
        g: gradients that reach the states from outside.
        x: the states.
        directions: per direction of the states, whether it runs against time.
        interpret: run by Pallas' interpreter, on any device.

    Returns:
        s, and per sequence the gradient of the eigenvalues without the starting state's part.
    """
    batch, length, parts, p = g.shape
    plan = Plan((batch, length, p), tuple(not reverse for reverse in directions))
    sums = jax.ShapeDtypeStruct((parts, batch, p), g.dtype)
    s, da = _run(
        partial(_adjoint_tile, plan),
        plan,
        inputs=[
            (_spread(conjugate(a), plan), plan.shared()),
            (g, plan.stream(both=True)),
            (x, plan.stream(both=True)),
        ],
        outputs=[(jax.ShapeDtypeStruct(g.shape, g.dtype), plan.stream(both=True)), (sums, plan.per_direction())],
        carried=4,
        interpret=interpret,
    )
    return s, da


def _spread(a: Pair, plan: Plan) -> Float[Array, "2 b p"]:
    return jnp.broadcast_to(jnp.stack(a)[:, None], (2, SEQUENCES, plan.shape[2]))


def _where(real: Any, new: Carry, old: Carry) -> Carry:
    return (
        new
        if real is None
        else tuple(jnp.where(jnp.broadcast_to(real, n.shape), n, o) for n, o in zip(new, old, strict=True))
    )


def _plus_product(b: Carry, a: Carry, x: Carry) -> Carry:
    """Returns b + a x, in this order so that each part is two fused multiply-adds."""
    return b[0] + a[0] * x[0] - a[1] * x[1], b[1] + a[0] * x[1] + a[1] * x[0]


def _scan_tile(plan: Plan, load: Callable[..., Array], d: Any, k: Any, refs: Sequence[Any], x: Carry) -> Carry:
    a_ref, x0_ref, b_ref, x_ref = refs
    rows = plan.rows(d, k)
    a = tuple(load(a_ref, part) for part in PARTS)
    x = _where(k == 0, tuple(load(x0_ref, part) for part in PARTS), x)
    inputs = [tuple(load(b_ref, slice(None), row, part) for part in PARTS) for row, _ in rows]
    for (row, real), b in zip(rows, inputs, strict=True):
        x = _where(real, _plus_product(b, a, x), x)
        for part in PARTS:
            x_ref[:, row, part] = x[part]
    return x


def _adjoint_tile(plan: Plan, load: Callable[..., Array], d: Any, k: Any, refs: Sequence[Any], carry: Carry) -> Carry:
    a_ref, g_ref, x_ref, s_ref, da_ref = refs
    rows = plan.rows(d, k)
    a = tuple(load(a_ref, part) for part in PARTS)
    zero = a[0] * 0.0  # unlike jnp.zeros, has the layout of what is added to it
    carry = _where(k == 0, (zero,) * 4, carry)
    s, da = carry[:2], carry[2:]
    inputs = [[tuple(load(ref, slice(None), row, part) for part in PARTS) for ref in (g_ref, x_ref)] for row, _ in rows]
    of_tile: Carry = (zero, zero)  # summed apart: rounding then grows with the number of tiles, not of steps
    for (row, real), (g, x) in zip(rows, inputs, strict=True):
        of_tile = _where(real, _plus_product(of_tile, (x[0], -x[1]), s), of_tile)
        s = _where(real, _plus_product(g, a, s), s)
        for part in PARTS:
            s_ref[:, row, part] = s[part]
    da = da[0] + of_tile[0], da[1] + of_tile[1]
    for part in PARTS:
        da_ref[part] = da[part]  # the last tile's is what leaves the chip
    return *s, *da


def _run(
    tile: Tile,
    plan: Plan,
    inputs: list[tuple[Array, _Block]],
    outputs: list[tuple[jax.ShapeDtypeStruct, _Block]],
    carried: int,
    interpret: bool,
) -> Sequence[Array]:
    arrays, blocks = zip(*inputs, strict=True)
    run = _interpreted if interpret else _compiled
    return run(tile, plan, blocks, outputs, carried)(*arrays)


def _compiled(
    tile: Tile,
    plan: Plan,
    blocks: Sequence[_Block],
    outputs: list[tuple[jax.ShapeDtypeStruct, _Block]],
    carried: int,
) -> Callable[..., Sequence[Array]]:
    dtype = outputs[0][0].dtype
    layout = plgpu.Layout.TILED(  # a warp to a sequence, a lane to a state
        plgpu.Tiling(((SEQUENCES, STATES), (1,))), warp_dims=(-3,), lane_dims=(-2,), vector_dim=-1
    )
    tile_bytes = dtype.itemsize * sum(prod(block.shape) for block in (*blocks, *(block for _, block in outputs)))

    def load(ref: Any, *index: Any) -> Array:
        return plgpu.layout_cast(ref[index], layout)

    def program(*refs: Any) -> None:
        place = tuple(jax.lax.axis_index(name) for name in ("d", "b", "p"))

        def spec(block: _Block) -> Any:
            return plgpu.BlockSpec(block.shape, lambda k: block.place(*place, k))

        def step(indices: tuple[Array], *refs_and_carry: Any) -> Carry:
            *block_refs, carry = refs_and_carry
            return tile(load, place[0], indices[0], block_refs, carry)

        zero = plgpu.layout_cast(jnp.zeros((SEQUENCES, STATES), dtype), layout)
        plgpu.emit_pipeline(
            step,
            grid=(plan.tiles,),
            in_specs=[spec(block) for block in blocks],
            out_specs=[spec(block) for _, block in outputs],
            max_concurrent_steps=max(1, min(TILES_ALOFT, SHARED_MEMORY // tile_bytes)),
            init_carry=(zero,) * carried,
        )(*refs)

    return plgpu.kernel(
        program,
        out_type=[shape for shape, _ in outputs],
        grid=plan.programs,
        grid_names=("d", "b", "p"),
        # Barriers around every store would cost more than the arithmetic. None is needed: the pipeline has its own
        # before and after a tile, and within one no thread reads what another wrote.
        compiler_params=plgpu.CompilerParams(unsafe_no_auto_barriers=True),
    )


def _interpreted(
    tile: Tile,
    plan: Plan,
    blocks: Sequence[_Block],
    outputs: list[tuple[jax.ShapeDtypeStruct, _Block]],
    carried: int,
) -> Callable[..., Sequence[Array]]:
    """Runs the same tiles on the same blocks one after the other; what lies outside an array is NaN there."""

    def program(*refs: Any) -> None:
        block_refs, carry_refs = refs[:-carried], refs[-carried:]
        carry = tile(
            lambda ref, *index: ref[index],
            pl.program_id(0),
            pl.program_id(3),
            block_refs,
            tuple(ref[...] for ref in carry_refs),
        )
        for ref, value in zip(carry_refs, carry, strict=True):
            ref[...] = value

    return pl.pallas_call(
        program,
        out_shape=[shape for shape, _ in outputs],
        grid=(*plan.programs, plan.tiles),
        in_specs=[pl.BlockSpec(*block) for block in blocks],
        out_specs=[pl.BlockSpec(*block) for _, block in outputs],
        scratch_shapes=[plgpu.SMEM((SEQUENCES, STATES), outputs[0][0].dtype)] * carried,
        interpret=True,
    )
