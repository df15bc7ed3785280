"""Ways to store arrays, found by file name (`s5c.lookup`).

A container's module has

    TITLE             what it is, in a few words
    holds(path)       whether a file or folder looks like one; reads its first bytes at most
    read(path)        its arrays by name, the parts of a name joined by "/" or, of PyTorch, by "."; runs nothing in it,
                      and raises `UnreadableError` for anything that is not what it should be
"""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)

SURFACE = ("TITLE", "holds", "read")
