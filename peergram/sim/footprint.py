"""How much memory hangs on an object: the bytes of everything reachable from it that belongs to it alone.

Types, functions and modules are shared and end the walk, and so do objects that the caller names. The figure is CPython's own
(`sys.getsizeof`), good enough to see a table that grows.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType

_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, CodeType, FrameType)


def belongings(root: object, without: Iterable[object] = ()) -> Iterator[object]:
    """Everything reachable from `root`, not through shared objects or those in `without`."""
    seen = {id(shared) for shared in without}
    todo = [root]
    while todo:
        some = todo.pop()
        if id(some) in seen or isinstance(some, _SHARED):
            continue
        seen.add(id(some))
        yield some
        todo.extend(gc.get_referents(some))


def footprint_bytes(root: object, without: Iterable[object] = ()) -> int:
    """The bytes of all of that."""
    return sum(map(sys.getsizeof, belongings(root, without)))
