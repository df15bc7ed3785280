"""Pickled batches of arrays, read without running what is in them.

A pickle is a program: it may call any function it names. Here it may name those that build an array, and these are
stand-ins which only note what they are given. Operations are checked beforehand, for some take memory by announcement.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Collection
from typing import Any

import numpy as np

OPERATIONS = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET"),
        *("LONG_BINGET", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT"),
        *(
            "BININT1",
            "BININT2",
            "LONG",
            "LONG1",
            "STRING",
            "BINSTRING",
            "SHORT_BINSTRING",
            "BINBYTES",
            "SHORT_BINBYTES",
        ),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BYTEARRAY8", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    }
)
"""Of the pickle machine: plain values and containers, and what arrays are made with."""

DAMAGE = (
    *(pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError),
    *(RecursionError, MemoryError),
)
"""What the pickle machine lets through when operations do not fit together."""

MEMO = 2**20
"""Places for values that occur again; the machine takes memory up to the highest number it sees."""


class _Noted:
    """Stands for an object that is not made: what it would be made from, and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Noted):
    """Stands for `_reconstruct(ndarray, ...)`, whose state is (version, shape, dtype, Fortran order, bytes)."""


class _FromBuffer(_Noted):
    """Stands for `_frombuffer(bytes, dtype, shape, order)`, which protocol 5 uses."""


class _Dtype(_Noted):
    """Stands for `dtype("u1", ...)`."""


class _Bytes(_Noted):
    """Stands for `_codecs.encode(text, "latin1")`, by which Python 3 writes bytes to the protocols of Python 2."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        """Returns the bytes."""
        if encoding != "latin1":
            raise ValueError("it encodes what is not bytes")
        return text.encode("latin-1")


CORES = ("numpy.core", "numpy._core")
ALLOWED: dict[tuple[str, str], type[_Noted]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Bytes,
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in CORES},
    **{(f"{core}.numeric", "_frombuffer"): _FromBuffer for core in CORES},
}
"""Classes, not functions: of a function a pickle could change the attributes."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise ValueError(f"it names {module}.{name}")
        return ALLOWED[module, name]


def check(content: bytes, operations: Collection[str] = OPERATIONS) -> None:
    """Looks through the operations of a pickle, none of which is carried out.

    Args:
        content: the pickle.
        operations: names of those that it may have.

    Raises:
        DAMAGE: one of them; it is cut short, or has another operation.
    """
    for operation, argument, _ in pickletools.genops(content):
        if operation.name not in operations:
            raise ValueError(f"it has the operation {operation.name}")
        if "PUT" in operation.name and not (isinstance(argument, int) and 0 <= argument < MEMO):
            raise ValueError(f"it stores value number {argument}")


def load(content: bytes) -> dict[str, Any]:
    """Returns the entries of a pickled dictionary: lists, numbers, text, and arrays of bytes.

    Args:
        content: a pickle of Python 2 or 3.

    Raises:
        DAMAGE: one of them; it is damaged, or holds something else.
    """
    check(content)
    found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(found, dict):
        raise ValueError("it holds no dictionary")
    return {_text(key): _made(value) for key, value in found.items()}


def _made(value: Any) -> Any:
    """Makes the array that is described; everything else is returned as it is."""
    if isinstance(value, _Array):
        _, shape, dtype, fortran, data = value.state
    elif isinstance(value, _FromBuffer):
        data, dtype, shape, order = value.arguments
        fortran = _text(order) == "F"
    else:
        return value
    if not isinstance(dtype, _Dtype) or _text(dtype.arguments[0]) not in ("u1", "|u1"):
        raise ValueError("it has an array of something else than bytes")
    if not all(type(size) is int and size >= 0 for size in shape) or len(data) != math.prod(shape):
        raise ValueError("it has an array whose size is not that of its data")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
