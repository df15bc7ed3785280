"""From text to token ids: characters as the published S5 code reads them, bytes as the Long Range Arena does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from s5c.data.cache import Writer
from s5c.errors import UserError, unknown

PAD, UNKNOWN, EOS = "<pad>", "<unk>", "<eos>"
SPECIALS = (PAD, UNKNOWN, EOS)
"""Ids 0, 1 and 2; every sequence ends in <eos>, and there is no token for the beginning."""

CODE_POINTS = 0x110000
CHUNK = 1000
"""Texts encoded at a time."""

Encoded = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Cut:
    """What is kept of a text.

    Attributes:
        tokens: how many at most.
        keep: first | last of them.
        lower: make everything lower case first.
    """

    tokens: int
    keep: str = "first"
    lower: bool = False

    def __post_init__(self) -> None:
        if self.keep not in ("first", "last"):
            raise unknown("value for task.keep", self.keep, ("first", "last"))
        if self.tokens < 1:
            raise UserError("task.max_length must leave room for one token and <eos>: give at least 2.")

    def __call__(self, text: str) -> str:
        """Returns the part of a text that is read."""
        text = text.lower() if self.lower else text
        return text[: self.tokens] if self.keep == "first" else text[-self.tokens :]


def vocabulary(counts: Mapping[str, int], min_freq: int = 1) -> list[str]:
    """Returns the specials, then the tokens seen at least `min_freq` times: the most frequent first, ties in order."""
    kept = [token for token, count in counts.items() if count >= min_freq]
    return [*SPECIALS, *sorted(kept, key=lambda token: (-counts[token], token))]


def byte_vocabulary() -> list[str]:
    """Returns the names of the 257 ids of `encode_bytes`."""
    return [PAD, *(f"0x{value:02x}" for value in range(256))]


def id_type(vocabulary: Sequence[str]) -> np.dtype:
    """Returns the smallest type that holds all ids."""
    return np.min_scalar_type(len(vocabulary) - 1)


def count_characters(texts: Iterable[str]) -> dict[str, int]:
    """Returns how often each character occurs."""
    counts = np.zeros(CODE_POINTS, np.int64)
    for chunk in _chunks(texts):
        found, times = np.unique(_code_points("".join(chunk)), return_counts=True)
        counts[found] += times
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}


def encode_characters(texts: Sequence[str], vocabulary: Sequence[str]) -> Encoded:
    """Returns the ids of all texts end to end, each with <eos>, and their lengths including it."""
    table = np.full(CODE_POINTS, vocabulary.index(UNKNOWN), id_type(vocabulary))
    for number, token in enumerate(vocabulary):
        if len(token) == 1:
            table[ord(token)] = number
    lengths = np.array([len(text) for text in texts], np.int64)
    ids = table[_code_points("".join(texts))]
    return np.insert(ids, np.cumsum(lengths), vocabulary.index(EOS)), lengths + 1


def encode_bytes(texts: Sequence[str], max_length: int) -> Encoded:
    """Returns byte + 1 for each byte of the UTF-8 form, 0 being padding, cut to `max_length`; no <eos>."""
    encoded = [text.encode("utf-8")[:max_length] for text in texts]
    flat = np.frombuffer(b"".join(encoded), np.uint8).astype(np.uint16) + np.uint16(1)
    return flat, np.array([len(part) for part in encoded], np.int64)


def write_characters(writer: Writer, split: str, texts: Iterable[str], cut: Cut, vocabulary: Sequence[str]) -> None:
    """Writes the ids of a split's texts."""
    for chunk in _chunks(texts):
        writer.sequences(split, *encode_characters([cut(text) for text in chunk], vocabulary))


def write_bytes(writer: Writer, split: str, texts: Iterable[str], max_length: int) -> None:
    """Writes the bytes of a split's texts."""
    for chunk in _chunks(texts):
        writer.sequences(split, *encode_bytes(chunk, max_length))


def width_of(vocabulary: Sequence[str], width: int | None) -> int:
    """Returns the number of ids that the network's encoder provides for.

    Args:
        vocabulary: what occurs.
        width: what the published recipe declares; None for as many as occur.

    Raises:
        UserError: the vocabulary is larger.
    """
    if width is not None and len(vocabulary) > width:
        raise UserError(
            f"task.width={width} is too small: the vocabulary has {len(vocabulary)} ids. Set task.width=null, "
            f"or to at least {len(vocabulary)}."
        )
    return len(vocabulary) if width is None else width


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _chunks(texts: Iterable[str]) -> Iterable[list[str]]:
    remaining = iter(texts)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk
