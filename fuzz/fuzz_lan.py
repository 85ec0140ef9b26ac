"""Datagrams of the local network's signals: format, pieces and copies."""

from __future__ import annotations

from random import Random

from fuzz.run import run
from peergram.config import CARRIED_BYTES_MAX, LAN_DATAGRAM_BYTES_MAX
from peergram.errors import WireError
from peergram.identity import Identity
from peergram.signaling.lan_protocol import LanCore, decode_lan_datagram, encode_lan_datagram, split_signal

_RECEIVER = Identity.of("bob")
_PLACE = ("192.0.2.1", 4_000)


def fuzz_one(data: bytes) -> None:
    """A datagram is refused with WireError, or is written back as it was. Whatever comes, a receiver drops it or hands over a
    signal within the limit, and never the same one twice."""
    try:
        datagram = decode_lan_datagram(data)
    except WireError:
        pass
    else:
        assert len(data) <= LAN_DATAGRAM_BYTES_MAX
        assert encode_lan_datagram(datagram) == data
    core = LanCore(_RECEIVER, Random(0).randbytes)
    taken = core.handle_datagram(_PLACE, data, 0)
    if taken is not None:
        assert len(taken[1]) <= CARRIED_BYTES_MAX
        assert core.handle_datagram(_PLACE, data, 0) is None


def seeds() -> list[bytes]:
    """Signals of one piece and of many."""
    senders = [Identity.of("alice"), Identity.generic_bytes(bytes(range(32)))]
    return [
        packet
        for sender in senders
        for size in (0, 300, 3_000)
        for packet in split_signal(b"instance", size, _RECEIVER, sender, bytes(size))
    ]


if __name__ == "__main__":
    run(fuzz_one, seeds())
