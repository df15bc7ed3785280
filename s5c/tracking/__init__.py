"""The record of a run: `metrics.jsonl` in its folder, mirrored to Weights & Biases."""
