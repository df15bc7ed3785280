"""Weights as a whole: drawn as a training starts with them, and told apart by a checksum."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

from s5c.data.base import Split
from s5c.model.classifier import Classifier
from s5c.pipeline.trained import TrainedModel, batches
from s5c.training.loop import to_device


def drawn(trained: TrainedModel, model: Classifier, *, seed: int) -> dict[str, Any]:
    """Returns weights of a network as a training from scratch would start with."""
    train = trained.splits.train
    if not len(train):  # a network from Python without data; what is drawn depends on no input
        spec = model.spec
        blank = np.zeros((1, *([2] * spec.pairs), 1), np.int32) if spec.tokens else np.zeros((1, 1, spec.features))
        train = Split(blank, np.zeros(1, np.int32))
    batch = to_device(next(batches(train, 2)()))
    return jax.jit(model.init)(jax.random.key(seed), batch.inputs, batch.lengths)


def fingerprint(weights: dict[str, Any]) -> str:
    """Returns a short checksum of all arrays."""
    digest = hashlib.sha256()
    for path, value in jax.tree_util.tree_leaves_with_path(weights):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(jax.device_get(value).tobytes())
    return digest.hexdigest()[:12]
