"""Ways to name the arrays of a network, found by file name (`s5c.lookup`).

A layout's module has

    TITLE                    whose networks these are
    FAMILIES                 the families of s5c that they are of
    OPTIONS                  the options that it understands, of `s5c.upstream.options`
    fits(arrays)             whether names are of this layout; shapes are not looked at
    convert(arrays, given)   the network (`s5c.upstream.network.Converted`); raises `UserError` naming what does not fit
"""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)

SURFACE = ("TITLE", "FAMILIES", "OPTIONS", "fits", "convert")
