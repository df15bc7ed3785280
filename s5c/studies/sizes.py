"""What is published of every task of the queue: how much there is of it, so that its cost is known without its data."""

from __future__ import annotations

from typing import NamedTuple

from s5c.model.inputs import InputSpec


class Data(NamedTuple):
    """What is published of a task, so that its cost is known without its data.

    Attributes:
        train: examples for training, those included that are carved for validation.
        validation: whether a validation split is published.
        length: steps of a sequence.
        spec: inputs and classes.
        lengths: how many training sequences have up to 128 steps, up to 256, and so on, the last as many as they are
            cut to; empty where all have as many, or it is not known.
    """

    train: int
    validation: bool
    length: int
    spec: InputSpec
    lengths: tuple[int, ...] = ()


BIN = 128
IMDB = (
    *(18, 390, 1080, 1008, 1653, 4039, 2868, 2179, 1681, 1288, 1149, 911, 791, 660, 596, 544, 444, 389, 372, 305, 272),
    *(223, 235, 201, 175, 150, 146, 138, 100, 99, 90, 806),
)
SAME_MOVIE = (
    *(0, 74, 771, 1363, 2842, 11192, 12044, 11555, 10075, 8970, 8750, 7610, 7282, 6034, 5719, 5194, 4306, 3483, 3832),
    *(3268, 3053, 2534, 2934, 2451, 2062, 1703, 1766, 1692, 1451, 1498, 1127, 10451),
)
LISTOPS = (0, 0, 0, 1446, 15584, 13854, 12147, 10535, 9026, 7775, 6576, 5624, 4588, 3779, 3308, 1758)
"""As drawn here; of the Arena's files it is not known."""
FSDD = (
    *(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 10, 14, 22, 25, 40, 49, 71, 81, 86, 102, 107, 141, 137, 132, 141, 154, 151, 124),
    *(125, 118, 105, 104, 91, 97, 52, 59, 47, 45, 51, 37, 33, 19, 20, 12, 12, 4, 9, 5, 5, 7, 3, 5, 1, 4, 8, 1, 2, 4, 1),
    *(1, 2, 3, 19),
)

PUBLISHED = {
    "digits": Data(1_437, False, 64, InputSpec(1, 10)),
    "fashion": Data(54_000, True, 784, InputSpec(1, 10)),
    "fsdd": Data(2_700, False, 8_000, InputSpec(1, 10), FSDD),
    "image": Data(45_000, True, 1_024, InputSpec(1, 10)),
    "imdb": Data(25_000, False, 4_096, InputSpec(135, 2, tokens=True), IMDB),
    "imdb_small": Data(25_000, False, 512, InputSpec(4 * 51, 2)),
    "listops": Data(96_000, True, 2_048, InputSpec(20, 10, tokens=True), LISTOPS),
    "listops_small": Data(20_000, True, 100, InputSpec(20, 10, tokens=True)),
    "pathfinder": Data(160_000, True, 1_024, InputSpec(1, 2)),
    "pathfinder_small": Data(8_000, True, 1_024, InputSpec(1, 2)),
    "pathx": Data(160_000, True, 16_384, InputSpec(1, 2)),
    "psmnist": Data(54_000, True, 784, InputSpec(1, 10)),
    "retrieval": Data(147_086, True, 4_000, InputSpec(98, 2, tokens=True, pairs=True)),
    "same_movie": Data(147_086, True, 4_000, InputSpec(134, 2, tokens=True, pairs=True), SAME_MOVIE),
    "scifar": Data(45_000, True, 1_024, InputSpec(3, 10)),
    "smnist": Data(54_000, True, 784, InputSpec(1, 10)),
    "smnist_small": Data(54_000, True, 196, InputSpec(1, 10)),
    "speech35": Data(84_843, True, 16_000, InputSpec(1, 35)),
}
