"""Bounded reading: a position in received bytes that cannot leave them.

For formats that are read once, field by field; paths taken by every data packet index their bytes themselves. Varints are in
`varint.py`.
"""

from __future__ import annotations

from typing import Literal

from peergram.errors import WireError


class Cursor:
    """Reads `data` from position `at` on; every read past the end raises WireError and moves nothing."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if not 0 <= size <= self.left:
            raise WireError(f"{size} bytes announced, {self.left} left")
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self, size: int, order: Literal["little", "big"] = "little") -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size), order)

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self.left)
