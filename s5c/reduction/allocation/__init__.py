"""One allocation a file: a function `priority` that says how a layer's states compete with those of other layers."""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)
