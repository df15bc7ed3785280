"""What a trained model answers to fixed inputs, stored beside it: whoever loads it can see that it is the same network.

256 random inputs need no data; the first 256 test examples need the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from s5c.data.batching import Batch
from s5c.evaluation.metrics import predict
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.config import from_dict
from s5c.pipeline.trained import TrainedModel, batches
from s5c.training.checkpoint import Checkpoint
from s5c.types import Float

FILE = "answers.npz"
EXAMPLES, BATCH = 256, 32


def random_batches(spec: InputSpec, length: int) -> Iterator[Batch]:
    """Yields the random inputs, in batches: ids drawn evenly and lengths of at least half, or normal numbers.

    Args:
        spec: input specification of the network.
        length: steps per sequence.
    """
    rng, rows = np.random.default_rng(0), BATCH * (2 if spec.pairs else 1)
    for _ in range(EXAMPLES // BATCH):
        labels, ones = _no_labels(spec, length), np.ones(BATCH, np.float32)
        if spec.tokens:
            ids = rng.integers(0, spec.features, (rows, length)).astype(np.int32)
            yield Batch(ids, labels, rng.integers(-(-length // 2), length + 1, rows).astype(np.int32), ones)
        else:
            yield Batch(rng.standard_normal((rows, length, spec.features)).astype(np.float32), labels, None, ones)


def _no_labels(spec: InputSpec, length: int) -> np.ndarray:
    if spec.targets is None:
        return np.zeros(BATCH, np.int32)
    return np.zeros((BATCH, *([length] * spec.targets.per_step), spec.classes), np.float32)


def answers(trained: TrainedModel) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns the outputs, log-probabilities or targets, for both sets of inputs, and the length of the sequences."""
    return {
        "length": np.array(float(trained.dataset.length)),
        "random": to_random(trained.model, trained.weights, trained.dataset.length, trained.step_rescale),
        "test": to_test(trained),
    }


def to_random(
    model: Classifier, weights: dict[str, object], length: int, step_rescale: float
) -> Float[np.ndarray, "n c"]:
    """Returns the answers to the random inputs."""
    return predict(model, weights, random_batches(model.spec, length), step_rescale=step_rescale).outputs


def to_test(trained: TrainedModel) -> Float[np.ndarray, "n c"]:
    """Returns the answers to the first test examples."""
    first = trained.splits.test.take(np.arange(min(EXAMPLES, len(trained.splits.test))))
    return predict(trained.model, trained.weights, batches(first, BATCH)(), step_rescale=trained.step_rescale).outputs


def deviation(checkpoint: Checkpoint, folder: Path) -> float:
    """Returns how far a zoo model's answers to the random inputs are from those stored; needs no data.

    The largest difference, as a share of the largest stored answer: max |y - y_stored| / max |y_stored|.
    Log-probabilities of random inputs reach hundreds, where float32 itself ends at 3e-5, and processors sum in
    different orders.

    Args:
        checkpoint: as `zoo.load` returns it.
        folder: folder of the model.
    """
    stored, facts = np.load(folder / FILE), checkpoint.metadata
    config = from_dict(facts["model"])
    model = Classifier(config, InputSpec(*facts["input_spec"]), config.check_state_dims(facts["state_dims"]))
    found = to_random(model, checkpoint.weights, int(stored["length"]), 1.0)
    return relative(found, stored["random"])


def relative(found: Float[np.ndarray, "..."], stored: Float[np.ndarray, "..."]) -> float:
    """Returns the largest difference of two sets of answers as a share of the largest stored one."""
    return float(np.abs(found - stored).max() / np.abs(stored).max())
