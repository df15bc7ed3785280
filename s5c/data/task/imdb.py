"""`imdb`: sentiment of film reviews, character by character: the Long Range Arena's Text as S4 and S5 read it.

Unicode characters, case and `<br />` kept, cut to 4,095, <eos> appended. The vocabulary is the characters seen at least
15 times in the cut training reviews: 131, with the specials 134 ids, of 135 that the published encoder provides for.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from s5c.data import padding
from s5c.data.base import Dataset, Split
from s5c.data.cache import Entry, Writer
from s5c.data.decode import Windows
from s5c.data.origin import Located, Origin
from s5c.data.source import aclimdb, prepared
from s5c.data.source.folder import shown
from s5c.data.tokenise import (
    Cut,
    byte_vocabulary,
    count_characters,
    vocabulary,
    width_of,
    write_bytes,
    write_characters,
)
from s5c.errors import UserError, bounded, unknown

VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Reviews as sequences of tokens.

    Attributes:
        level: characters (S4, S5) | bytes (the Arena's own: byte + 1, no <eos>; needs width=null).
        max_length: steps with <eos>; longer reviews are cut.
        min_freq: rarer characters become <unk>.
        width: ids that the encoder provides for; null for as many as there are.
        keep: first | last characters of longer reviews.
        lower: make everything lower case.
        window, stride: read `window` tokens a step, and move `stride` tokens on. (1, 1) is the published way.
        pad: full (published) | bucket | a list of lengths | how many to choose (`s5c.data.padding`).
    """

    reads_tokens: ClassVar[bool] = True
    licence: ClassVar[str] = "Large Movie Review Dataset (Maas et al. 2011): no licence stated, to be cited."
    name: ClassVar[str] = "imdb"
    level: str = "characters"
    max_length: int = bounded(4096, least=2)
    min_freq: int = bounded(15, least=1)
    width: int | None = bounded(135, least=1)
    keep: str = "first"
    lower: bool = False
    window: int = 1
    stride: int = 1
    pad: Any = padding.FULL

    def __post_init__(self) -> None:
        if self.level not in ("characters", "bytes"):
            raise unknown("value for task.level", self.level, ("characters", "bytes"))
        if self.level == "bytes" and (self.keep, self.lower) != ("first", False):
            raise UserError("task.level=bytes reads the first bytes as they are: leave task.keep and task.lower out.")
        if not 1 <= self.stride <= self.window:
            raise UserError(f"task.window={self.window}, task.stride={self.stride}: need 1 <= stride <= window.")
        _ = self._cut  # refuses what cannot be cut
        padding.check(self.pad, self.max_length)

    def load(self) -> Dataset:
        """Returns ids of shape (n, max_length), or one-hot windows of them."""
        keys = ("level", "max_length", "min_freq") if self.level == "characters" else ("level", "max_length")
        options = {key: getattr(self, key) for key in (*keys, "keep", "lower")}
        entry = self.obtain(self.name, ("imdb", VERSION, options), self._origins())
        tokens = entry.facts["vocabulary"]
        ids = width_of(tokens, self.width)
        plain = (self.window, self.stride) == (1, 1)
        decode = None if plain else Windows(ids, self.window, self.stride)
        splits = {name: self._split(entry, name, decode) for name in ("train", "test")}
        splits = padding.padded(splits, self.pad, self.max_length)
        return Dataset(
            name=self.name,
            source=padding.named(entry.source, self.pad, splits["train"]),
            train=splits["train"],
            test=splits["test"],
            features=ids if plain else self.window * ids,
            classes=2,
            tokens=plain,
            vocabulary=tokens,
            checksum=entry.checksum,
        )

    @property
    def _cut(self) -> Cut:
        return Cut(self.max_length - 1, self.keep, self.lower)

    def _split(self, entry: Entry, name: str, decode: Windows | None) -> Split:
        inputs = entry.ragged(name, self.max_length)
        lengths = inputs.lengths if decode is None else decode.steps(inputs.lengths)
        return Split(inputs, entry.labels(name), lengths, decode)

    def _origins(self) -> list[Origin]:
        files = Origin(
            "files",
            "the folder aclImdb of the Large Movie Review Dataset",
            self._from_files,
            aclimdb.find,
            names=aclimdb.FOLDERS,
            archives=("aclImdb_v1.tar.gz",),
            tfds="imdb_reviews",
        )
        find = partial(prepared.find, name="imdb_reviews", config="plain_text")
        return [files, Origin("tfds", "imdb_reviews as TFDS prepares it", self._from_tfds, find, tfds="imdb_reviews")]

    def _from_files(self, place: Path, writer: Writer) -> str:
        reviews = aclimdb.read(place, writer)
        self._write(writer, reviews, place)
        return reviews.source

    def _from_tfds(self, place: Path, writer: Writer) -> str:
        reviews = aclimdb.Reviews.none(prepared.title(place))
        for split in reviews.texts:
            for number, example in enumerate(prepared.read(place, split, {"text": bytes, "label": int}), start=1):
                writer.raw.update(example["text"])
                name = f"{split}, example {number}"
                try:
                    reviews.texts[split].append(example["text"].decode("utf-8"))
                except UnicodeDecodeError as error:
                    raise UserError(f"{place}: {name} is not UTF-8 text. Prepare the set with TFDS again.") from error
                reviews.labels[split].append(int(example["label"]))
                reviews.names[split].append(name)
        self._write(writer, reviews, place)
        return reviews.source

    def _write(self, writer: Writer, reviews: aclimdb.Reviews, place: Path) -> None:
        texts = reviews.texts
        if self.level == "bytes":
            tokens = byte_vocabulary()
            _refuse_empty(reviews, place)
        else:
            tokens = vocabulary(count_characters(map(self._cut, texts["train"])), self.min_freq)
        for split in texts:
            if self.level == "bytes":
                write_bytes(writer, split, texts[split], self.max_length)
            else:
                write_characters(writer, split, texts[split], self._cut, tokens)
            writer.labels(split, reviews.labels[split], classes=2, where=place / split)
        writer.facts["vocabulary"] = tokens


def _refuse_empty(reviews: aclimdb.Reviews, place: Path) -> None:
    """Refuses reviews without a byte: they would be sequences of no step, whose mean over time is not defined."""
    empty = [
        name
        for split, texts in reviews.texts.items()
        for name, text in zip(reviews.names[split], texts, strict=True)
        if not text
    ]
    if empty:
        raise UserError(
            f"{place}: {shown(empty)} {'is' if len(empty) == 1 else 'are'} empty, and task.level=bytes has no step for "
            "that. Get the set again, remove what is empty, or read characters, where an empty review is its <eos>."
        )
