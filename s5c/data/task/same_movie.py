"""`same_movie`: are two reviews about the same film? A stand-in for `retrieval` on real texts that can be had.

Pairs of reviews of the Large Movie Review Dataset, characters as in `imdb`, each text cut to 3,999, <eos> appended.
A tenth of the training films is held out for validation, and films of the training split are left out of the test. So
are texts that occur twice. The second texts of the pairs of one film, exchanged among pairs of the same two ratings,
make the pairs of different films: every text, and every combination of ratings, is as frequent in both classes, and
neither a single text nor sentiment gives the answer.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from s5c.data import padding
from s5c.data.base import Dataset, Split
from s5c.data.cache import Entry, Writer
from s5c.data.origin import Located, Origin
from s5c.data.source import aclimdb
from s5c.data.tokenise import Cut, count_characters, vocabulary, width_of, write_characters
from s5c.errors import UserError, bounded

VERSION = 1
HELD_OUT = 0.1
"""Share of the training films whose pairs are for validation."""
ROUNDS = 1000
"""Of exchanging what is still of one film; three or four suffice unless one film has most pairs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Pairs of reviews.

    Attributes:
        max_length: steps of each text with <eos>; longer ones are cut.
        min_freq: rarer characters become <unk>.
        width: ids that the encoder provides for; null for as many as there are.
        pairs: pairs of one film, for training, validation and test; as many of two films are added.
        split_seed: seeds which films are held out and which pairs are drawn.
        pad: full | bucket | a list | how many to choose (`s5c.data.padding`), by the longer text.
    """

    reads_tokens: ClassVar[bool] = True
    licence: ClassVar[str] = "Large Movie Review Dataset (Maas et al. 2011): no licence stated, to be cited."
    max_length: int = bounded(4000, least=2)
    min_freq: int = bounded(15, least=1)
    width: int | None = bounded(None, least=1)
    pairs: list[int] = dataclasses.field(default_factory=lambda: [73_543, 9_045, 8_718])
    split_seed: int = 42
    pad: Any = padding.FULL

    def __post_init__(self) -> None:
        _ = self._cut  # refuses what cannot be cut
        padding.check(self.pad, self.max_length)
        if len(self.pairs) != 3 or min(self.pairs) < 1:
            raise UserError(f"task.pairs={self.pairs}: give three positive numbers, [train, validation, test].")

    def load(self) -> Dataset:
        """Returns ids of shape (n, 2, max_length)."""
        files = Origin(
            "files",
            "the folder aclImdb of the Large Movie Review Dataset, with urls_pos.txt and urls_neg.txt",
            self._build,
            aclimdb.find,
            names=(*aclimdb.FOLDERS, *aclimdb.LISTS.values()),
            archives=("aclImdb_v1.tar.gz",),
            tfds="imdb_reviews",
        )
        options = {key: getattr(self, key) for key in ("max_length", "min_freq", "split_seed")}
        entry = self.obtain("same_movie", ("same_movie", VERSION, {**options, "pairs": self.pairs}), [files])
        tokens = entry.facts["vocabulary"]
        texts = {"train": "train", "validation": "train", "test": "test"}
        splits = {name: self._split(entry, name, of) for name, of in texts.items()}
        splits = padding.padded(splits, self.pad, self.max_length)
        return Dataset(
            name="same_movie",
            source=padding.named(entry.source, self.pad, splits["train"]),
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            features=width_of(tokens, self.width),
            classes=2,
            tokens=True,
            pairs=True,
            vocabulary=tokens,
            checksum=entry.checksum,
        )

    @property
    def _cut(self) -> Cut:
        return Cut(self.max_length - 1)

    def _split(self, entry: Entry, name: str, texts: str) -> Split:
        inputs = entry.ragged(texts, self.max_length).take(entry.array(f"{name}.members"))
        return Split(inputs, entry.labels(name), inputs.lengths)

    def _build(self, place: Path, writer: Writer) -> str:
        texts, ratings, _, source = aclimdb.read(place, writer)
        films = aclimdb.films(place, writer)
        tokens = vocabulary(count_characters(map(self._cut, texts["train"])), self.min_freq)
        for split in texts:
            write_characters(writer, split, texts[split], self._cut, tokens)
        writer.facts["vocabulary"] = tokens

        rng = np.random.default_rng(self.split_seed)
        often = Counter(texts["train"] + texts["test"])
        once = {split: np.array([often[text] == 1 for text in texts[split]]) for split in texts}
        shuffled = rng.permutation(sorted(set(films["train"])))
        held_out = set(shuffled[: round(HELD_OUT * len(shuffled))])
        kept = partial(_kept, films, once)
        parts = {
            "train": kept("train", set(films["train"]) - held_out),
            "validation": kept("train", held_out),
            "test": kept("test", set(films["test"]) - set(films["train"])),
        }
        for (name, reviews), count in zip(parts.items(), self.pairs, strict=True):
            of = "test" if name == "test" else "train"
            same = _same(reviews, films[of], count, rng)
            other = _exchanged(same, np.array(films[of]), np.array(ratings[of]), rng, name)
            writer.add(f"{name}.members", np.stack([same, other], axis=1).reshape(-1, 2).astype(np.int32))
            writer.labels(name, np.tile([1, 0], len(same)), classes=2)
        return f"imdb-same-movie from {source}"


def _kept(films: dict[str, list[str]], once: dict[str, np.ndarray], split: str, wanted: set[str]) -> list[int]:
    return [i for i, film in enumerate(films[split]) if once[split][i] and film in wanted]


def _same(reviews: Sequence[int], films: Sequence[str], count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns pairs of reviews of one film, (n, 2), drawn without replacement, in random order."""
    by_film = defaultdict(list)
    for review in reviews:
        by_film[films[review]].append(review)
    every = np.array([pair for of_film in by_film.values() for pair in combinations(of_film, 2)]).reshape(-1, 2)
    drawn = every[rng.permutation(len(every))[:count]]
    return rng.permuted(drawn, axis=1)


def _exchanged(
    same: np.ndarray, films: np.ndarray, ratings: np.ndarray, rng: np.random.Generator, name: str
) -> np.ndarray:
    """Returns pairs of two films, (n, 2): the same first texts, the second ones exchanged among equal ratings.

    Raises:
        UserError: there are too few films for that.
    """
    other = same.copy()
    kinds = ratings[same] @ np.array([2, 1])
    for kind in np.unique(kinds):
        places = np.flatnonzero(kinds == kind)
        other[places, 1] = same[rng.permutation(places), 1]
        for _ in range(ROUNDS):
            wrong = places[films[other[places, 0]] == films[other[places, 1]]]
            if not len(wrong):
                break
            mixed = np.union1d(wrong, rng.choice(places, len(wrong)))
            other[mixed, 1] = other[rng.permutation(mixed), 1]
        else:
            raise UserError(f"The {name} part has too few films with pairs of reviews to make pairs of two films.")
    return other
