"""`listops`: nested lists of MIN, MAX, MED and SM over digits; the class is the value. Long Range Arena, S5's reading.

`]` is X, parentheses are dropped, the rest is split at blanks; cut to 2,047 tokens, <eos> appended. The 15 symbols and
the specials are 18 ids, by descending training frequency, of 20 that the published encoder provides for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from s5c.data import padding
from s5c.data.base import Dataset, Split
from s5c.data.cache import Writer
from s5c.data.generator import listops as generator
from s5c.data.origin import Located, Origin
from s5c.data.progress import progress
from s5c.data.source import tsv
from s5c.data.tokenise import EOS, vocabulary, width_of
from s5c.errors import UserError, bounded

VERSION = 1
CHUNK = 1000
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """ListOps from the Arena's files, or drawn by its recipe.

    Attributes:
        max_length: steps with <eos>; longer expressions are cut.
        width: ids that the encoder provides for; null for as many as there are.
        pad: full (published) | bucket | a list of lengths | how many to choose (`s5c.data.padding`).
        examples: drawn for training, validation and test, in this order.
        generator_seed: seeds the drawing.
        max_depth, max_args: levels of nesting and arguments of an operator that are drawn.
        tokens: exclusive bounds of the drawn lengths, without parentheses.
    """

    reads_tokens: ClassVar[bool] = True
    licence: ClassVar[str] = "expressions drawn by the recipe of the Long Range Arena."
    name: ClassVar[str] = "listops"
    published: ClassVar[bool] = True
    max_length: int = bounded(2048, least=2)
    width: int | None = bounded(20, least=1)
    pad: Any = padding.FULL
    examples: list[int] = dataclasses.field(default_factory=lambda: [96_000, 2_000, 2_000])
    generator_seed: int = 0
    max_depth: int = bounded(10, least=1)
    max_args: int = bounded(10, least=2)
    tokens: list[int] = dataclasses.field(default_factory=lambda: [500, 2_000])

    def __post_init__(self) -> None:
        if len(self.examples) != 3 or min(self.examples) < 1 or len(self.tokens) != 2 or min(self.tokens) < 0:
            raise UserError(
                f"task.examples={self.examples}, task.tokens={self.tokens}, task.max_length={self.max_length}: give "
                "three counts (training, validation, test), two bounds, and a length of at least 2."
            )
        padding.check(self.pad, self.max_length)

    def load(self) -> Dataset:
        """Returns ids of shape (n, max_length)."""
        drawn = ("examples", "generator_seed", "max_depth", "max_args", "tokens")
        options = {key: getattr(self, key) for key in ("max_length", *drawn)}
        files = Origin(
            "files",
            "the folder listops-1000 of the Long Range Arena's release (basic_train.tsv, ...)",
            self._from_files,
            partial(tsv.find, files=tsv.LISTOPS, name="listops-1000"),
            names=tuple(tsv.LISTOPS.values()),
            archives=tsv.RELEASE,
            part="listops-1000",
        )
        origins = [files] if self.published else []
        origins.append(Origin("generated", f"{self.name} by the Long Range Arena's recipe", self._generated))
        entry = self.obtain(self.name, ("listops", VERSION, options), origins)
        ids = entry.facts["vocabulary"]
        splits = {}
        for split in SPLITS:
            inputs = entry.ragged(split, self.max_length)
            splits[split] = Split(inputs, entry.labels(split), inputs.lengths)
        splits = padding.padded(splits, self.pad, self.max_length)
        return Dataset(
            name=self.name,
            source=padding.named(entry.source, self.pad, splits["train"]),
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            features=width_of(ids, self.width),
            classes=10,
            tokens=True,
            vocabulary=ids,
            checksum=entry.checksum,
        )

    def _generated(self, place: Path, writer: Writer) -> str:
        total = sum(self.examples)
        with progress("expressions", total) as advance:
            done = 0

            def report(found: int) -> None:
                nonlocal done
                advance(found - done)
                done = found

            flat, offsets, labels = generator.generate(
                total,
                seed=self.generator_seed,
                max_depth=self.max_depth,
                max_args=self.max_args,
                min_length=self.tokens[0],
                max_length=self.tokens[1],
                progress=report,
            )
        expressions = (flat[start:end] for start, end in pairwise(offsets.tolist()))
        values = iter(labels.tolist())
        for split, count in zip(SPLITS, self.examples, strict=True):
            self._write(writer, split, list(islice(expressions, count)), list(islice(values, count)))
        return f"listops generated by s5c v{VERSION} seed {self.generator_seed}"

    def _from_files(self, place: Path, writer: Writer) -> str:
        for split in SPLITS:
            expressions, labels = [], []
            path = place / tsv.LISTOPS[split]
            for number, (text, label) in enumerate(tsv.listops(path), start=1):
                try:
                    expressions.append(generator.parse(text))
                except UserError as error:
                    raise UserError(f"{path}, example {number}: {error}") from error
                labels.append(label)
            self._write(writer, split, expressions, labels)
        return f"LRA listops-1000 (files {writer.raw.hexdigest()[:8]})"

    def _write(self, writer: Writer, split: str, expressions: list[np.ndarray], labels: list[int]) -> None:
        if not expressions:
            raise UserError(f"The {split} split of ListOps has no examples: get the files again.")
        cut = [expression[: self.max_length - 1] for expression in expressions]
        if split == "train":
            counts = np.bincount(np.concatenate(cut), minlength=len(generator.SYMBOLS))
            found = {symbol: int(n) for symbol, n in zip(generator.SYMBOLS, counts, strict=True) if n}
            writer.facts["vocabulary"] = vocabulary(found)
        ids = writer.facts["vocabulary"]
        table = np.array([ids.index(symbol) if symbol in ids else 1 for symbol in generator.SYMBOLS], np.uint8)
        end = np.full(1, ids.index(EOS), np.uint8)
        for part in _chunks(cut):
            flat = np.concatenate([piece for expression in part for piece in (table[expression], end)])
            writer.raw.update(flat.data)
            writer.sequences(split, flat, np.array([len(expression) + 1 for expression in part]))
        writer.labels(split, labels, classes=10)


def _chunks(expressions: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for first in range(0, len(expressions), CHUNK):
        yield expressions[first : first + CHUNK]
