"""The one door to the protobuf runtime: what we use of a message, and parsing that raises `WireError` only.

The runtime stops at 100 levels of nesting by itself; its pure-Python variant may instead run out of stack in groups it skips, so
that both ways of giving up count as a wrong message.
"""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

from peergram.errors import WireError


class Message(Protocol):
    """The part of every generated class that the codecs use."""

    @classmethod
    def FromString(cls, data: bytes, /) -> Self: ...  # noqa: N802 (protobuf's name)
    def SerializeToString(self) -> bytes: ...  # noqa: N802 (protobuf's name)
    def HasField(self, name: str, /) -> bool: ...  # noqa: N802 (protobuf's name)


M = TypeVar("M", bound=Message)


def parse(message_type: type[M], data: bytes) -> M:
    """Decode `data`; raises WireError if it is not a well-formed message of that type."""
    try:
        return message_type.FromString(data)
    except (DecodeError, RecursionError) as error:
        raise WireError(f"{message_type.__name__}: not a well-formed protobuf message") from error


def within(field: bytes, limit_bytes: int, name: str) -> bytes:
    """`field` itself, if it is at most `limit_bytes` long; raises WireError otherwise."""
    if len(field) > limit_bytes:
        raise WireError(f"{name}: {len(field)} bytes, at most {limit_bytes} are taken")
    return field
