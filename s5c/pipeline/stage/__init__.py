"""One stage a file: a frozen dataclass `Stage` whose fields are its keys (`s5c.pipeline.line.Stage`)."""

LINE = ("choose", "take", "project", "mask", "fresh", "refit", "normalise", "readout", "measure", "train")
"""The order in which a network passes them; others name the one that they stand before."""
