"""What the folder of a training is known by; imports nothing, so that it can be looked for at once."""

from __future__ import annotations

IDENTITY = "identity.json"
"""Everything that decides the result of the training."""
IDENTITY_VERSION = 3
"""Raised when the training code changes its results, so that older trainings are not mistaken for new ones."""
FINISHED = "trained.json"
CHECKPOINTS = "checkpoints"
