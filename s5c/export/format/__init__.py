"""Formats of an export, found by file name (`s5c.lookup`): `format=NAME` takes `NAME.py`.

A format's module has

    EXTRA        what must be installed for it beside s5c, in words; "" for nothing
    write(exported, folder)     writes the files into an empty folder; returns the command that checks them
"""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)
