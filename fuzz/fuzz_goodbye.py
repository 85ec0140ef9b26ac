"""Fuzz target: the goodbye of own peers."""

from __future__ import annotations

from peergram.connection.goodbye import GOODBYE_LEAD, Goodbye, decode_goodbye, encode_goodbye
from peergram.errors import WireError


def fuzz_one(data: bytes) -> None:
    """Any payload gives a goodbye and the rest, or `WireError`; a goodbye written again reads the same."""
    try:
        goodbye, rest = decode_goodbye(bytes((GOODBYE_LEAD,)) + data)
    except WireError:
        return
    assert data.endswith(rest)
    again, nothing = decode_goodbye(encode_goodbye(goodbye))
    assert again.reason == goodbye.reason
    assert goodbye.taken[: len(again.taken)] == again.taken
    assert goodbye.debug.startswith(again.debug.rstrip("\ufffd"))
    assert nothing == b""


def seeds() -> list[bytes]:
    goodbyes = (Goodbye(1001, "over"), Goodbye(0, ""), Goodbye(65535, "x" * 200, ((0, 1), (7, 1 << 40))))
    return [encode_goodbye(goodbye)[1:] + b"\x98\x01\x00\xff\xff" for goodbye in goodbyes]


if __name__ == "__main__":
    from fuzz.run import run

    run(fuzz_one, seeds())
