"""s5c: train deep diagonal state-space models and compress them by removing states."""

__version__ = "0.1.0"
