"""A plugin of mypy: `get` of a `TypedDict` with a key that it does not have is an error, as `[...]` is.

mypy itself gives the type `object` for it, since a dict may hold more than its type says. Rows of results do not
(`s5c.report.row`): such a key is a typing error that would read as an absent column for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.errorcodes import TYPEDDICT_ITEM
from mypy.plugin import MethodContext, Plugin
from mypy.plugins.common import try_getting_str_literals
from mypy.plugins.default import typed_dict_get_callback
from mypy.types import Type, TypedDictType


def checked_get(ctx: MethodContext) -> Type:
    """Reports keys that the `TypedDict` does not have; the type is what mypy makes it."""
    if isinstance(ctx.type, TypedDictType) and ctx.args and ctx.args[0]:
        for key in try_getting_str_literals(ctx.args[0][0], ctx.arg_types[0][0]) or ():
            if key not in ctx.type.items:
                ctx.api.fail(f'"{ctx.type.fallback.type.name}" has no key "{key}"', ctx.context, code=TYPEDDICT_ITEM)
    return typed_dict_get_callback(ctx)


class CheckedGet(Plugin):
    """Comes before mypy's own hook of the same method."""

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """Returns the check for `TypedDict.get`."""
        return checked_get if fullname == "typing.Mapping.get" else None


def plugin(version: str) -> type[Plugin]:
    """Returns the plugin; mypy calls this."""
    return CheckedGet
