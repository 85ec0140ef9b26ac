"""Fuzz target: datagrams from anywhere at an endpoint that listens and has one live session."""

from __future__ import annotations

import hashlib

from peergram.endpoint.endpoint import Endpoint
from peergram.identity import Identity

HERE, PEER, STRANGER = ("192.0.2.1", 7000), ("192.0.2.2", 7000), ("192.0.2.9", 9)


class Entropy:
    """The same bytes in every run."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._seed}/{self._count}".encode()).digest(size)


def fuzz_one(data: bytes) -> None:
    """No datagram raises, ends the session, or makes the endpoint send a stranger more than came from him.

    The input is a row of datagrams, each led by two bytes: where it comes from, and a quarter of its length.
    """
    endpoint, other = connected()
    now_us, at = 3_000_000, 0
    while at + 2 <= len(data):
        size = data[at + 1] * 4
        datagram = data[at + 2 : at + 2 + size]
        remote = PEER if data[at] & 1 else STRANGER
        at += 2 + size
        now_us += 1_000
        endpoint.handle_datagrams(1, remote, datagram, max(len(datagram), 1), now_us)
        answered = 0
        while (transmit := endpoint.poll_transmit(now_us)) is not None:
            answered += sum(map(len, transmit.packets)) if transmit.remote == STRANGER else 0
        assert remote == PEER or answered <= len(datagram)
    assert endpoint.send_message(Identity.ip(PEER), b"still here", 9, 0, now_us) == 1
    deliver(endpoint, HERE, other, now_us)
    assert [message.payload for message in other.receive_messages(0, 10, now_us)][-1:] == [b"still here"]


def connected() -> tuple[Endpoint, Endpoint]:
    """Two endpoints with a session between them."""
    endpoint = Endpoint(Identity.of("alice"), entropy=Entropy("alice"))
    other = Endpoint(Identity.of("bob"), entropy=Entropy("bob"))
    for who, address in ((endpoint, HERE), (other, PEER)):
        who.listen(address)
        who.poll_socket_request()
        who.handle_socket_opened(1, address, 0)
    endpoint.send_message(Identity.ip(PEER), b"hello", 9, 0, 1_000_000)
    for now_us in range(1_000_000, 1_100_000, 10_000):
        deliver(endpoint, HERE, other, now_us)
        if other.poll_event() is not None:
            other.accept_session(Identity.of("alice"), now_us)
        deliver(other, PEER, endpoint, now_us)
        for who in (endpoint, other):
            who.handle_timeout(now_us)
    assert [message.payload for message in other.receive_messages(0, 10, 1_100_000)] == [b"hello"]
    return endpoint, other


def deliver(sender: Endpoint, source: tuple[str, int], receiver: Endpoint, now_us: int) -> None:
    while (transmit := sender.poll_transmit(now_us)) is not None:
        for packet in transmit.packets:
            receiver.handle_datagrams(1, source, packet, len(packet), now_us)


def seeds() -> list[bytes]:
    from tests.vectors_data import control_packets

    rows = [row["datagram"] for row in control_packets()][:60]
    return [
        bytes((index & 1, (len(row) + 3) // 4 & 255)) + row.ljust((len(row) + 3) // 4 * 4, b"\0")
        for index, row in enumerate(rows)
    ]


if __name__ == "__main__":
    from fuzz.run import run

    run(fuzz_one, seeds())
