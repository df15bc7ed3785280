"""ListOps: the distribution of the expressions, their values, and the text form of the Long Range Arena."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from layouts import listops_text

from s5c.data.generator import listops
from s5c.data.generator.listops import SYMBOLS, Limits, evaluate, generate, parse
from s5c.errors import UserError

SMALL: dict[str, Any] = {"max_depth": 4, "max_args": 5, "min_length": 20, "max_length": 100}
COUNT = 1_000


@cache
def arena() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return generate(COUNT, seed=1, processes=1)


def expressions(tokens: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    return np.split(tokens, offsets[1:-1])


# ---- values


def value(symbols: list[str]) -> int | list[int | str]:
    """Reads the Arena's text as the binary tree that it is: a pair applies what is left to what is right."""
    symbol = symbols.pop(0)
    if symbol != "(":
        return int(symbol) if symbol.isdigit() else [symbol]
    left, right = value(symbols), value(symbols)
    assert symbols.pop(0) == ")"
    assert isinstance(left, list)
    if right != ["]"]:
        return [*left, right]  # type: ignore[list-item]
    operator, *arguments = left
    reduced = {"[MIN": np.min, "[MAX": np.max, "[MED": np.median, "[SM": np.sum}[str(operator)](arguments)
    return int(reduced) % 10


def test_values_agree_with_a_recursive_evaluation_of_the_text() -> None:
    tokens, offsets, labels = generate(COUNT, seed=3, processes=1, **SMALL)
    for expression, label in zip(expressions(tokens, offsets), labels, strict=True):
        assert value(listops_text(expression).split()) == label == evaluate(expression)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        ("[MED 1 2 X", 1),
        ("[MED 2 1 9 X", 2),
        ("[MED 9 0 3 6 X", 4),
        ("[SM 9 9 9 X", 7),
        ("[MIN 3 [MAX 1 8 X 5 X", 3),
    ],
)
def test_value(text: str, expected: int) -> None:
    assert evaluate(parse(text)) == expected


# ---- text


def test_text_is_nested_from_the_left() -> None:
    text = "( ( ( [MAX 2 ) 9 ) ] )"
    assert listops_text(parse("[MAX 2 9 X")) == text
    assert [SYMBOLS[token] for token in parse(text)] == ["[MAX", "2", "9", "X"]


def test_text_reads_back() -> None:
    tokens, offsets, _ = arena()
    for expression in expressions(tokens, offsets)[:50]:
        np.testing.assert_array_equal(parse(listops_text(expression)), expression)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not one ListOps expression"),
        ("1 2", "not one"),
        ("[MAX 1 2", "not one"),
        ("[MAX 1 2 X X", "not one"),
        ("[MAX 1 X [MIN 2 X", "not one"),
        ("X 1 [MAX", "not one"),
        ("[MAX 1 [SM ] ]", "without arguments"),
        ("[MAX 1 [SUM 2 ] ]", r"'\[SUM'.* allowed are 0 1"),
        ("[MAX 1 10 ]", "'10'"),
        ("Source\tTarget", "'Source'"),
    ],
)
def test_broken_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text)


# ---- distribution


def test_lengths_are_those_of_the_arena() -> None:
    lengths = np.diff(arena()[1])
    assert lengths.min() > 500 and lengths.max() < 2000
    # The spread is about 400, so that the mean of a thousand is good to 13.
    assert abs(lengths.mean() - 1030) < 50
    assert abs(np.median(lengths) - 950) < 70
    assert abs(np.percentile(lengths, 90) - 1640) < 100


def test_labels_are_those_of_the_arena() -> None:
    shares = np.bincount(arena()[2], minlength=10) / COUNT
    assert abs(shares[0] - 0.18) < 0.05 and abs(shares[9] - 0.16) < 0.05
    assert (shares[1:9] > 0.05).all() and (shares[1:9] < 0.12).all()


def test_trees_are_drawn_by_the_published_probabilities() -> None:
    limits = Limits(max_depth=2, max_args=4, min_length=0, max_length=100)
    drawn = [e for chunk in range(4) for e, _ in listops._draw_chunk(0, limits, chunk)]
    assert len(drawn) == 4 * listops.DRAWS_PER_CHUNK
    lists = [e for e in drawn if len(e) > 1]
    assert abs(len(lists) / len(drawn) - 0.25) < 0.03
    arguments = np.bincount([len(e) - 2 for e in lists], minlength=5) / len(lists)
    np.testing.assert_allclose(arguments, [0, 0, 1 / 3, 1 / 3, 1 / 3], atol=0.06)
    operators = np.bincount([e[0] for e in lists], minlength=14)[10:] / len(lists)
    np.testing.assert_allclose(operators, 0.25, atol=0.06)
    digits = np.bincount([e[0] for e in drawn if len(e) == 1], minlength=10)
    np.testing.assert_allclose(digits / digits.sum(), 0.1, atol=0.025)


def test_bounds_are_exclusive_and_depth_is_kept() -> None:
    tokens, offsets, _ = generate(400, seed=0, max_depth=3, max_args=3, min_length=7, max_length=12, processes=1)
    assert set(np.diff(offsets)) == {8, 9, 10, 11}
    depths = [np.cumsum((e >= 10).astype(int) - 2 * (e == 14)).max() for e in expressions(tokens, offsets)]
    assert set(depths) == {2}  # one list within another at this length; the third level holds digits alone


# ---- distinct, reproducible


def test_every_expression_is_found_once() -> None:
    pairs: dict[str, Any] = {
        "max_depth": 2,
        "max_args": 2,
        "min_length": 2,
        "max_length": 5,
    }  # four operators, two digits
    tokens, offsets, _ = generate(400, seed=0, processes=1, **pairs)
    assert len({e.tobytes() for e in expressions(tokens, offsets)}) == 400
    with pytest.raises(UserError, match="only 400 distinct ListOps expressions of 401"):
        generate(401, seed=0, processes=1, **pairs)


def test_result_depends_on_seed_alone() -> None:
    reports: list[int] = []
    one = generate(600, seed=5, processes=1, **SMALL)
    two = generate(600, seed=5, processes=2, progress=reports.append, **SMALL)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert reports == sorted(set(reports)) and reports[-1] == 600
    few = generate(100, seed=5, processes=1, **SMALL)
    np.testing.assert_array_equal(few[0], one[0][: one[1][100]])
    other = generate(100, seed=6, processes=1, **SMALL)
    assert few[0].tobytes() != other[0].tobytes()


def test_expressions_stay_the_same_between_versions() -> None:
    tokens, _, labels = generate(100, seed=0, processes=1, **SMALL)
    assert zlib.crc32(tokens.tobytes()) == 2476171663
    assert labels[:10].tolist() == [9, 5, 9, 6, 2, 2, 0, 3, 8, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"max_args": 1}, "max_args=1"),
        ({"max_depth": 0}, "max_depth=0"),
        ({"min_length": 9, "max_length": 10}, "at least min_length"),
        ({"processes": 0}, "processes=0"),
    ],
)
def test_senseless_limits_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(**{"count": 1, "seed": 0, **SMALL, **options})
