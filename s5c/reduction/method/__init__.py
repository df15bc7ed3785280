"""One method a file: a frozen dataclass `Method` whose fields are its yaml keys (see `s5c.reduction.contract`)."""
