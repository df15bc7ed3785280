"""ListOps (Nangia & Bowman 2018) with the rules and limits of the Long Range Arena (Tay et al. 2021).

An expression is a digit or an operator with arguments, `[MAX 2 9 [SM 4 7 X X` = 9, where `X` closes an operator. The
Arena's files wrap the same expression in parentheses, which every known loader removes; here they exist in text only.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np

from s5c.data.generator.parallel import in_order, worker_count
from s5c.errors import UserError

SYMBOLS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "X")
"""The symbol of each token; a digit is its own token."""

MIN, MAX, MED, SM, CLOSE = range(10, 15)

OPERATOR_PROBABILITY = 0.25
"""That a node is an operator; also at the root, so that three of four draws are a lone digit and thrown away."""

DRAWS_PER_CHUNK = 1_000
"""Trees drawn from one seed; takes about 0.1 s with the Arena's limits."""

KEPT_PER_CHUNK = 85
"""Of them, with the Arena's limits."""

IDLE_CHUNKS = 50
"""Chunks in a row without a new expression after which the limits are taken to leave no more of them."""

TOKEN_OF = {symbol: token for token, symbol in enumerate(SYMBOLS)} | {"]": CLOSE}


class Limits(NamedTuple):
    """Levels of nesting, arguments per operator, and the exclusive bounds of the length in tokens."""

    max_depth: int
    max_args: int
    min_length: int
    max_length: int


def generate(
    count: int,
    *,
    seed: int,
    max_depth: int = 10,
    max_args: int = 10,
    min_length: int = 500,
    max_length: int = 2000,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws distinct expressions.

    The result depends on `seed` and the limits alone; fewer expressions are the first ones of more.

    Args:
        count: how many.
        seed: seeds everything.
        max_depth: levels of a tree; a digit alone has one.
        max_args: most arguments of an operator; the fewest is 2.
        min_length: every expression has more tokens than this,
        max_length: and fewer than this.
        processes: how many to work with; None for one per core.
        progress: called with the number of expressions found so far.

    Returns:
        tokens: tokens of all expressions, one after another, uint8.
        offsets: (count + 1,) int64; expression i is `tokens[offsets[i]:offsets[i + 1]]`.
        labels: (count,) int8, the values, 0 to 9.

    Raises:
        UserError: limits that make no sense or leave fewer than `count` expressions.
    """
    limits = Limits(max_depth, max_args, min_length, max_length)
    _check(count, limits)
    draw = partial(_draw_chunk, seed, limits)
    labels: dict[bytes, int] = {}
    idle = 0
    with closing(in_order(draw, itertools.count(), worker_count(processes, count // KEPT_PER_CHUNK))) as chunks:
        while len(labels) < count and idle < IDLE_CHUNKS:
            before = len(labels)
            for expression, value in next(chunks):
                if len(labels) < count:
                    labels.setdefault(expression, value)
            idle = idle + 1 if len(labels) == before else 0
            if progress and not idle:
                progress(len(labels))
    if len(labels) < count:
        raise UserError(
            f"Found only {len(labels)} distinct ListOps expressions of {count} with max_depth={max_depth}, "
            f"max_args={max_args} and {min_length} < length < {max_length}: widen the limits or ask for fewer."
        )
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum([len(expression) for expression in labels], out=offsets[1:])
    return np.frombuffer(b"".join(labels), np.uint8), offsets, np.array(list(labels.values()), np.int8)


def evaluate(tokens: np.ndarray) -> int:
    """Returns the value of one complete expression, as `parse` and `generate` give it: a digit.

    MED is the median, cut to a whole number (of 1 and 2 it is 1); SM is the sum modulo 10.
    """
    open_operators: list[int] = []
    arguments: list[list[int]] = [[]]
    for token in np.asarray(tokens, np.uint8).tobytes():
        if token < MIN:
            arguments[-1].append(token)
        elif token < CLOSE:
            open_operators.append(token)
            arguments.append([])
        else:
            value = _apply(open_operators.pop(), arguments.pop())
            arguments[-1].append(value)
    return arguments[0][0]


def parse(text: str) -> np.ndarray:
    """Reads one expression, with parentheses or without, with `]` or `X` as the closing bracket.

    Args:
        text: the column "Source" of the Arena's files. Parentheses are ignored wherever they stand.

    Returns:
        tokens, uint8.

    Raises:
        UserError: an unknown symbol, or symbols that do not form exactly one expression.
    """
    symbols = text.replace("(", " ").replace(")", " ").split()
    try:
        tokens = np.array([TOKEN_OF[symbol] for symbol in symbols], np.uint8)
    except KeyError as error:
        raise UserError(
            f"ListOps symbol {error.args[0]!r} in {_shortened(text)}: allowed are {' '.join(SYMBOLS)} ] ( )."
        ) from None
    opens, closes = (tokens >= MIN) & (tokens < CLOSE), tokens == CLOSE
    depth = np.cumsum(opens.astype(np.int64) - closes)
    if not len(tokens) or depth[-1] != 0 or (depth[:-1] < 1).any():
        raise UserError(
            f"{_shortened(text)} is not one ListOps expression: it needs as many closing brackets as operators, and "
            "nothing before or after the outermost pair."
        )
    if (opens[:-1] & closes[1:]).any():
        raise UserError(f"{_shortened(text)} has an operator without arguments: give each at least one.")
    return tokens


def _draw_chunk(seed: int, limits: Limits, chunk: int) -> list[tuple[bytes, int]]:
    """Draws `DRAWS_PER_CHUNK` trees and returns those within the limits, with their values."""
    # Seeded by text and read by random() alone: the two things whose results Python guarantees for all versions.
    uniform = random.Random(f"listops {seed} {chunk}").random
    kept = []
    for _ in range(DRAWS_PER_CHUNK):
        tokens = _draw_tree(uniform, limits)
        if limits.min_length < len(tokens) < limits.max_length:
            kept.append((tokens, evaluate(np.frombuffer(tokens, np.uint8))))
    return kept


def _draw_tree(uniform: Callable[[], float], limits: Limits) -> bytes:
    """Draws a tree; one that outgrows the limit is left unfinished, and too long."""
    tokens = bytearray()
    missing = [1]  # by level: arguments still to be drawn
    while missing and len(tokens) < limits.max_length:
        if missing[-1] == 0:
            missing.pop()
            if missing:
                tokens.append(CLOSE)
            continue
        missing[-1] -= 1
        if len(missing) == limits.max_depth or uniform() >= OPERATOR_PROBABILITY:
            tokens.append(int(10 * uniform()))
        else:
            tokens.append(MIN + int(4 * uniform()))
            missing.append(2 + int((limits.max_args - 1) * uniform()))
    return bytes(tokens)


def _apply(operator: int, arguments: list[int]) -> int:
    if operator == MIN:
        return min(arguments)
    if operator == MAX:
        return max(arguments)
    if operator == SM:
        return sum(arguments) % 10
    ordered, n = sorted(arguments), len(arguments)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) // 2


def _check(count: int, limits: Limits) -> None:
    if count < 1:
        raise UserError(f"count={count}: ask for 1 or more ListOps expressions.")
    if limits.max_depth < 1 or limits.max_args < 2:
        raise UserError(
            f"ListOps max_depth={limits.max_depth}, max_args={limits.max_args}: the depth must be 1 or more, the "
            "number of arguments 2 or more."
        )
    if limits.max_length - max(limits.min_length, 0) < 2:
        raise UserError(
            f"ListOps min_length={limits.min_length}, max_length={limits.max_length}: both bounds are exclusive, so "
            "that max_length must be at least min_length + 2."
        )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
