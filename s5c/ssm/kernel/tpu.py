"""TPU kernels of the sequence operator, one direction: project, run and project back while a block is in VMEM.

The grid goes over tiles of sequences and, in order, over blocks of time. Arrays are time-major, (l, b, channels), so
that one step of a tile is whole registers: sequences along sublanes, channels along lanes. The state goes from block to
block in VMEM; of all states only those before the blocks leave it, and the derivative recomputes the others.

Lowers and, with libtpu's compiler, compiles; never run on a TPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from s5c.types import Array, Float

UNROLL = 8
"""Steps of the recurrence that the compiler may interleave; loads and stores then leave the chain of dependencies."""


class Plan(NamedTuple):
    """How a call is cut up.

    Attributes:
        rows: sequences in a tile.
        steps: time steps in a block.
        padding: rows of the last block, in time, that are not part of the sequence. They are not run over.
        reverse: the run goes against time.
        precision: precision of the matrix products, as in `s5c.ssm.precision`.
        interpret: evaluate the kernels step by step in XLA, on any platform.
    """

    rows: int
    steps: int
    padding: int
    reverse: bool
    precision: str
    interpret: bool


def run(
    plan: Plan,
    a: Float[Array, "1 twop"],
    W_in: Float[Array, "h twop"],
    W_out: Float[Array, "twop out"],
    u: Float[Array, "l b h"],
    x0: Float[Array, "b twop"],
) -> tuple[Float[Array, "l b out"], Float[Array, "b twop"], Float[Array, "n b twop"]]:
    """Returns the output, the last state, and the state before every block."""
    (length, batch, _), (twop, out) = u.shape, W_out.shape
    blocks = length // plan.steps
    in_time = _in_time(blocks, plan.reverse)
    dtype = W_in.dtype
    return pl.pallas_call(
        partial(_run_block, plan),
        grid=(batch // plan.rows, blocks),
        in_specs=[_whole(a), _whole(W_in), _whole(W_out), _steps(plan, u, in_time), _tile(plan, x0)],
        out_specs=[
            pl.BlockSpec((plan.steps, plan.rows, out), in_time),
            _tile(plan, x0),
            pl.BlockSpec((1, plan.rows, twop), in_time),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((length, batch, out), dtype),
            jax.ShapeDtypeStruct((batch, twop), dtype),
            jax.ShapeDtypeStruct((blocks, batch, twop), dtype),
        ],
        scratch_shapes=[pltpu.VMEM((plan.steps, plan.rows, twop), dtype)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=plan.interpret,
    )(a, W_in, W_out, u, x0)


def differentiate(
    plan: Plan,
    a: Float[Array, "1 twop"],
    W_in: Float[Array, "h twop"],
    W_out: Float[Array, "twop out"],
    u: Float[Array, "l b h"],
    starts: Float[Array, "n b twop"],
    gy: Float[Array, "l b out"],
    g_last: Float[Array, "b twop"],
) -> tuple[Array, Array, Array, Array, Array]:
    """Returns the gradients of a (one row for each sequence of a tile), W_in, W_out, u and x0."""
    blocks, batch, twop = starts.shape
    in_time = _in_time(blocks, not plan.reverse)
    dtype = W_in.dtype
    d_a = jax.ShapeDtypeStruct((plan.rows, twop), dtype)
    return pl.pallas_call(
        partial(_differentiate_block, plan),
        grid=(batch // plan.rows, blocks),
        in_specs=[
            *(_whole(x) for x in (a, W_in, W_out)),
            _steps(plan, u, in_time),
            pl.BlockSpec((1, plan.rows, twop), in_time),
            _steps(plan, gy, in_time),
            _tile(plan, g_last),
        ],
        out_specs=[*(_whole(x) for x in (d_a, W_in, W_out)), _steps(plan, u, in_time), _tile(plan, g_last)],
        out_shape=[d_a, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (W_in, W_out, u, g_last))],
        scratch_shapes=[
            pltpu.VMEM((plan.steps + 1, plan.rows, twop), dtype),
            pltpu.VMEM((plan.steps, plan.rows, twop), dtype),
        ],
        # Every tile adds to the same gradients, so tiles, too, run in order.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary", "arbitrary")),
        interpret=plan.interpret,
    )(a, W_in, W_out, u, starts, gy, g_last)


def _whole(x: Any) -> pl.BlockSpec:
    return pl.BlockSpec(x.shape, lambda tile, k: (0, 0))


def _tile(plan: Plan, x: Array) -> pl.BlockSpec:
    return pl.BlockSpec((plan.rows, x.shape[1]), lambda tile, k: (tile, 0))


def _steps(plan: Plan, x: Array, in_time: Callable[..., Any]) -> pl.BlockSpec:
    return pl.BlockSpec((plan.steps, plan.rows, x.shape[2]), in_time)


def _in_time(blocks: int, reverse: bool) -> Callable[..., Any]:
    """Maps a grid index to that of a block of steps."""
    return lambda tile, k: (blocks - 1 - k if reverse else k, tile, 0)


def _real_steps(plan: Plan, against_time: bool) -> int | Array:
    """Returns how many steps of the block belong to the sequence, its first; the grid visits blocks in that order."""
    if not plan.padding:
        return plan.steps  # static: the loop is unrolled
    last = 0 if against_time else pl.num_programs(1) - 1
    return jnp.where(pl.program_id(1) == last, plan.steps - plan.padding, plan.steps)


def _loop(steps: int | Array, reverse: bool, body: Callable[[Array, Any], Any], carry: Any) -> Any:
    def step(i: Array, carry: Any) -> Any:
        return body(steps - 1 - i if reverse else i, carry)

    return jax.lax.fori_loop(0, steps, step, carry, unroll=UNROLL if isinstance(steps, int) else None)


def _product(precision: str, x: Array, y: Array, contract: tuple[int, int] = (1, 0)) -> Array:
    """Multiplies matrices on the MXU, which multiplies bfloat16 and adds float32.

    Mosaic has exact products in six passes and plain ones in one; the three passes of "tf32" are written out.
    """
    multiply = partial(
        jax.lax.dot_general,
        dimension_numbers=(((contract[0],), (contract[1],)), ((), ())),
        preferred_element_type=jnp.promote_types(x.dtype, y.dtype),
    )
    if precision == "bfloat16" or jnp.bfloat16 in (x.dtype, y.dtype):
        return multiply(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), precision=jax.lax.Precision.DEFAULT)
    if precision == "float32":
        return multiply(x, y, precision=jax.lax.Precision.HIGHEST)
    (x_high, x_low), (y_high, y_low) = _halves(x), _halves(y)
    multiply = partial(multiply, precision=jax.lax.Precision.DEFAULT)
    return multiply(x_low, y_high) + multiply(x_high, y_low) + multiply(x_high, y_high)


def _halves(x: Array) -> tuple[Array, Array]:
    """Splits float32 into two bfloat16 that add up to sixteen of its bits.

    By mask, not by rounding there and back, which a compiler may take for nothing.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) & jnp.int32(-65536)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high.astype(jnp.bfloat16), (x - high).astype(jnp.bfloat16)


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])  # free: the rows of a tile fill whole registers


def _parts(x: Array) -> tuple[Array, Array]:
    p = x.shape[-1] // 2
    return x[..., :p], x[..., p:]


def _recur(plan: Plan, steps: int | Array, a_ref: Any, x: Array, states_ref: Any, offset: int) -> Array:
    """Replaces the driving terms in `states_ref`, from row `offset` on, by the states; returns the last."""
    a_re, a_im = _parts(jnp.broadcast_to(a_ref[:], x.shape))

    def step(t: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        b_re, b_im = _parts(states_ref[t + offset])
        x = (a_re * x[0] - a_im * x[1] + b_re, a_re * x[1] + a_im * x[0] + b_im)
        states_ref[t + offset] = jnp.concatenate(x, axis=-1)
        return x

    return jnp.concatenate(_loop(steps, plan.reverse, step, _parts(x)), axis=-1)


def _run_block(
    plan: Plan,
    a_ref: Any,
    W_in_ref: Any,
    W_out_ref: Any,
    u_ref: Any,
    x0_ref: Any,
    y_ref: Any,
    state_ref: Any,
    start_ref: Any,
    states_ref: Any,
) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        state_ref[:] = x0_ref[:]

    x = state_ref[:]  # stays in VMEM from block to block; after the last one it is the result
    start_ref[0] = x
    states_ref[:] = _product(plan.precision, _flat(u_ref[:]), W_in_ref[:]).reshape(states_ref.shape)
    state_ref[:] = _recur(plan, _real_steps(plan, plan.reverse), a_ref, x, states_ref, 0)
    y_ref[:] = _product(plan.precision, _flat(states_ref[:]), W_out_ref[:]).reshape(y_ref.shape)


def _differentiate_block(
    plan: Plan,
    a_ref: Any,
    W_in_ref: Any,
    W_out_ref: Any,
    u_ref: Any,
    start_ref: Any,
    gy_ref: Any,
    g_last_ref: Any,
    d_a_ref: Any,
    dW_in_ref: Any,
    dW_out_ref: Any,
    du_ref: Any,
    arriving_ref: Any,
    states_ref: Any,
    adjoint_ref: Any,
) -> None:
    """Goes one block back: its states again, then the adjoint s_k = g_k + conj(a) s_{k+1} over them."""
    product = partial(_product, plan.precision)

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _() -> None:
        for gradient_ref in (d_a_ref, dW_in_ref, dW_out_ref):
            gradient_ref[:] = jnp.zeros_like(gradient_ref)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        arriving_ref[:] = g_last_ref[:]

    steps = _real_steps(plan, not plan.reverse)
    own, earlier = (0, 1) if plan.reverse else (1, 0)  # rows where x_0, x_1, ... and the states before them begin
    states_ref[own : own + plan.steps] = product(_flat(u_ref[:]), W_in_ref[:]).reshape(adjoint_ref.shape)
    if plan.reverse:
        states_ref[plan.steps] = start_ref[0]  # a row that nothing else writes; the padding's, if there is any
        states_ref[steps] = start_ref[0]
    else:
        states_ref[0] = start_ref[0]
    _recur(plan, steps, a_ref, start_ref[0], states_ref, own)

    adjoint_ref[:] = product(_flat(gy_ref[:]), W_out_ref[:], (1, 1)).reshape(adjoint_ref.shape)
    a_re, a_im = _parts(jnp.broadcast_to(a_ref[:], arriving_ref.shape))

    def step_back(t: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        arriving_re, arriving_im, da_re, da_im = carry
        g_re, g_im = _parts(adjoint_ref[t])
        x_re, x_im = _parts(states_ref[t + earlier])
        s_re, s_im = g_re + arriving_re, g_im + arriving_im
        adjoint_ref[t] = jnp.concatenate([s_re, s_im], axis=-1)
        leaving = (a_re * s_re + a_im * s_im, a_re * s_im - a_im * s_re)
        return *leaving, da_re + s_re * x_re + s_im * x_im, da_im + s_im * x_re - s_re * x_im

    carry = (*_parts(arriving_ref[:]), *_parts(d_a_ref[:]))
    *arriving, da_re, da_im = _loop(steps, not plan.reverse, step_back, carry)
    arriving_ref[:] = jnp.concatenate(arriving, axis=-1)
    d_a_ref[:] = jnp.concatenate([da_re, da_im], axis=-1)

    # Each product reads its factors again: a value kept from one to the other would take VMEM of its own.
    du = product(_flat(adjoint_ref[:]), W_in_ref[:], (1, 1))
    du_ref[:] = du.reshape(du_ref.shape).astype(du_ref.dtype)
    dW_in_ref[:] += product(_flat(u_ref[:]).astype(du.dtype), _flat(adjoint_ref[:]), (0, 0))
    dW_out_ref[:] += product(_flat(states_ref[own : own + plan.steps]), _flat(gy_ref[:]), (0, 0))
