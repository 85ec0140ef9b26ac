"""Control packets of plain UDP."""

from __future__ import annotations

from fuzz.run import load_vectors, run
from peergram.errors import WireError
from peergram.wire.control import NoConnection, decode_control, encode_control


def fuzz_one(data: bytes) -> None:
    """A datagram is refused with WireError, or gives a message that reads the same after being written again."""
    try:
        message = decode_control(data)
    except WireError:
        return
    if message != NoConnection(0, 0):
        assert decode_control(encode_control(message)) == message


def seeds() -> list[bytes]:
    """The recorded control packets, padding included."""
    crypto = load_vectors("01-crypto")
    rows = [(row["hex_without_padding"], row["zero_padding"]) for row in crypto["control_packets"]]
    for conversation in crypto["conversations"]:
        rows += [(row["hex"], row.get("zero_padding", 0)) for row in conversation["packets"] if row["kind"] != "Data"]
    return [bytes.fromhex(text) + bytes(padding) for text, padding in rows]


if __name__ == "__main__":
    run(fuzz_one, seeds())
