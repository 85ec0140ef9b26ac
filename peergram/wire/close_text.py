"""The sentence that goes with a close: at most 127 bytes of UTF-8, on the wire and in what is kept of it."""

from __future__ import annotations

from peergram.config import CLOSE_DEBUG_BYTES_MAX


def close_text_from(field: bytes) -> str:
    """The sentence a peer sent, cut; what is not UTF-8 in it is replaced."""
    return close_text_into(field[:CLOSE_DEBUG_BYTES_MAX].decode("utf-8", "replace")).decode()


def close_text_into(text: str) -> bytes:
    """The bytes to send: cut, with no half character at the end."""
    whole = text.encode("utf-8", "replace")[:CLOSE_DEBUG_BYTES_MAX].decode("utf-8", "ignore")
    return whole.encode()
