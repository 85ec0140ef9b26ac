"""A lock on an open file, by which programs of one machine leave each other's files alone; it ends with the program, however."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_LOCKED_BYTE = 1 << 30
"""Far behind the end: on Windows a locked part cannot be read by others."""


def lock_file(file: int) -> None:
    """Until the file is closed. Raises OSError if another holds it."""
    if sys.platform == "win32":
        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
