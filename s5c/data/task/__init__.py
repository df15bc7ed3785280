"""One task a file: a frozen dataclass `Task` whose fields are its yaml keys (see `s5c.data.base`)."""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)
