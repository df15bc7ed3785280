"""Which features of a network stay: greedy elimination, by what everything that reads them loses.

A reader multiplies the features z by a matrix W. With some features gone it reads what the others, kept K, tell of all,

    z ~ E z_K + constant,    E = S_{:K} S_KK^{-1},    S the covariance of z

and loses tr(W (S - S_{:K} S_KK^{-1} S_{K:}) W^T). Without feature j besides it loses (E^T W^T W E)_jj / (S_KK^{-1})_jj
more. The feature goes that costs least, summed over all readers, each relative to what it reads in the full network.
Ours; the step is that of optimal brain surgeon (Hassibi and Stork, 1993, equation 5), shared by several readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from s5c.types import Bool, Float

RIDGE = 1e-4
"""Pull of a regression, relative to the energy of each feature."""


class Reader(NamedTuple):
    """What reads the features in one place of a network.

    Attributes:
        covariance: S, of what is read there.
        weight: W^T W, of what it is multiplied by.
    """

    covariance: Float[np.ndarray, "h h"]
    weight: Float[np.ndarray, "h h"]


def eliminate(readers: Sequence[Reader], count: int) -> Bool[np.ndarray, "h"]:
    """Returns which features stay.

    Those that stay where fewer do are among those that stay where more do.

    Args:
        readers: of one network, float64.
        count: how many features stay, at least 1.
    """
    h = len(readers[0].covariance)
    left, inverses, losses = np.arange(h), [], []
    for S, weight in readers:
        present = np.diag(S) > 1e-12 * np.diag(S).max()
        weight = weight * np.outer(present, present)  # nothing is lost of a feature that is never there
        S = S + np.diag(np.where(present, RIDGE * np.diag(S), 1.0))
        inverses.append(np.linalg.inv(S))
        losses.append(weight / max(float(np.sum(weight * S)), np.finfo(float).tiny))
    while len(left) > count:
        cost = np.sum([np.diag(Q) / np.diag(P) for P, Q in zip(inverses, losses, strict=True)], axis=0)
        j = int(np.argmin(cost))
        for i, (P, Q) in enumerate(zip(inverses, losses, strict=True)):
            c = P[:, j] / P[j, j]  # what the others tell of feature j: E loses its column j and c times it
            Q = Q - np.outer(c, Q[j]) - np.outer(Q[:, j], c) + Q[j, j] * np.outer(c, c)
            P = P - np.outer(P[:, j], c)
            inverses[i], losses[i] = (np.delete(np.delete(one, j, 0), j, 1) for one in (P, Q))
        left = np.delete(left, j)
    return np.isin(np.arange(h), left)
