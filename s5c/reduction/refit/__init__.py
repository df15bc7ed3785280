"""One refit a file: a frozen dataclass `Refit` that solves the outputs of a reduced layer anew, its poles kept."""
