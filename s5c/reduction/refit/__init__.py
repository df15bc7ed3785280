"""One refit a file: a frozen dataclass `Refit` that solves the outputs of a reduced layer again, its poles kept."""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)
