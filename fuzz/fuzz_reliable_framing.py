"""Fuzz target: message headers of a reliable stream."""

from __future__ import annotations

from peergram.errors import WireError
from peergram.wire.reliable_framing import MESSAGE_HEADER_BYTES_MAX, encode_message_header, parse_message_header


def fuzz_one(data: bytes) -> None:
    """A stream gives headers until it ends, waits or is refused with `WireError`, and waits for at most 21 bytes.

    A header is read the same from its own bytes alone, any part of it waits, and written again it says the same.
    """
    at = 0
    while True:
        try:
            header = parse_message_header(data, at)
        except WireError:
            return
        if header is None:
            assert len(data) - at < MESSAGE_HEADER_BYTES_MAX
            return
        step, size, header_bytes = header
        assert 0 < header_bytes <= MESSAGE_HEADER_BYTES_MAX
        assert parse_message_header(data, at, at + header_bytes) == header
        assert parse_message_header(data, at, at + header_bytes - 1) is None
        again = encode_message_header(1 if step is None else step, size)
        assert parse_message_header(again) == (None if step == 1 else step, size, len(again))
        at += header_bytes + size


if __name__ == "__main__":
    from fuzz.run import run

    run(fuzz_one, [encode_message_header(step, size) for step in (0, 1, 300) for size in (0, 31, 32, 524_288)])
