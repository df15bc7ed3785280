"""`retrieval`: do two papers of the ACL Anthology Network cite each other? Long Range Arena, S5's reading.

Characters of both texts, each cut to 3,999, <eos> appended; the vocabulary is all characters of the training texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from s5c.data import padding
from s5c.data.base import Dataset, Split
from s5c.data.cache import Writer
from s5c.data.origin import Located, Origin
from s5c.data.source import tsv
from s5c.data.tokenise import Cut, count_characters, vocabulary, width_of, write_characters
from s5c.errors import UserError, bounded

VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Pairs of texts.

    Attributes:
        max_length: steps of each text with <eos>; longer ones are cut.
        width: ids that the encoder provides for; null for as many as there are, as published.
        pad: full (published) | bucket | a list | how many to choose (`s5c.data.padding`), by the longer text.
    """

    reads_tokens: ClassVar[bool] = True
    licence: ClassVar[str] = "ACL Anthology Network, as the Long Range Arena publishes it: see its terms."
    max_length: int = bounded(4000, least=2)
    width: int | None = bounded(None, least=1)
    pad: Any = padding.FULL

    def __post_init__(self) -> None:
        _ = self._cut  # refuses what cannot be cut
        padding.check(self.pad, self.max_length)

    def load(self) -> Dataset:
        """Returns ids of shape (n, 2, max_length)."""
        files = Origin(
            "files",
            "the folder tsv_data of the Long Range Arena's release (new_aan_pairs.train.tsv, ...)",
            self._build,
            partial(tsv.find, files=tsv.AAN, name="tsv_data"),
            names=tuple(tsv.AAN.values()),
            archives=tsv.RELEASE,
            part="tsv_data",
        )
        entry = self.obtain("retrieval", ("aan", VERSION, {"max_length": self.max_length}), [files])
        ids = entry.facts["vocabulary"]
        splits = {}
        for split in tsv.AAN:
            texts = entry.ragged(split, self.max_length)
            inputs = texts.take(np.arange(len(texts)).reshape(-1, 2))
            splits[split] = Split(inputs, entry.labels(split), inputs.lengths)
        splits = padding.padded(splits, self.pad, self.max_length)
        return Dataset(
            name="retrieval",
            source=padding.named(entry.source, self.pad, splits["train"]),
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            features=width_of(ids, self.width),
            classes=2,
            tokens=True,
            pairs=True,
            vocabulary=ids,
            checksum=entry.checksum,
        )

    @property
    def _cut(self) -> Cut:
        return Cut(self.max_length - 1)

    def _build(self, place: Path, writer: Writer) -> str:
        # The files are several GB: each is read row by row, that of training twice.
        ids = vocabulary(count_characters(map(self._cut, _texts(place / tsv.AAN["train"], []))))
        for split, name in tsv.AAN.items():
            labels: list[int] = []
            write_characters(writer, split, _texts(place / name, labels, writer), self._cut, ids)
            if not labels:
                raise UserError(f"{place / name} has no rows: get it again.")
            writer.labels(split, labels, classes=2)
        writer.facts["vocabulary"] = ids
        return f"LRA new_aan_pairs (files {writer.raw.hexdigest()[:8]})"


def _texts(path: Path, labels: list[int], writer: Writer | None = None) -> Iterator[str]:
    """Yields the first and the second text of each row in turn, and appends the labels to a list."""
    for first, second, label in tsv.pairs(path):
        labels.append(label)
        for text in (first, second):
            if writer is not None:
                writer.raw.update(text.encode("utf-8"))
            yield text
