"""One method a file: a frozen dataclass `Method` whose fields are its yaml keys (see `s5c.reduction.contract`)."""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)
