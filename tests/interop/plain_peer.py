"""One peer of the reference's P2P test, `test_p2p`, made of ours: it does what the other side of that program expects.

    python -m tests.interop.plain_peer ROLE LOCAL REMOTE SIGNALING STUN

ROLE is server, client or symmetric; identities are texts as `str:alice`, the services `host:port`. That program uses plain P2P
connections on virtual port 0 rather than the messages layer, and counts as success only a close with reason 1000. Ours has raw
framing for the former, and for the latter two things are done here that the library does not offer: virtual ports are exchanged
on their way to and from the signaling service, and the session is closed by the endpoint's own method with that reason.

Fifty milliseconds a tick, up to four messages in each: a number, counted for reliable and unreliable ones apart, and filling.
What was sent and received is told at the end in one line of JSON; whatever is wrong is an assertion.
"""

from __future__ import annotations

import json
import math
import random
import struct
import sys
import time
from dataclasses import replace

from peergram import Config, Identity, Messages, Result, SendFlags
from peergram.drivers.signaling.line_client import LineSignaling
from peergram.errors import End, EndReason
from peergram.events import ConnectionState, SessionRequested
from peergram.signaling.rendezvous import MESSAGES_VIRTUAL_PORT
from peergram.signaling.service import Deliver, LocalParty
from peergram.wire.signals import decode_signal, encode_signal

PLAIN_PORT = 0
TICK_S = 0.05
TICKS = 40
PATIENCE_S = 20.0
_COUNTER = struct.Struct("<i")
_BUFFERED_BYTES_MAX = 32 * 1_024
_READ_MAX = 1_000


class PlainSignaling:
    """The line protocol, with all connections on virtual port 0."""

    def __init__(self, host: str, port: int) -> None:
        self._lines = LineSignaling(host, port)

    def start(self, party: LocalParty, deliver: Deliver) -> None:
        """See `SignalingService`."""

        def take(sender: Identity | None, signal: bytes) -> None:
            deliver(sender, _on_port(signal, MESSAGES_VIRTUAL_PORT))

        self._lines.start(party, take)

    def send(self, to: Identity, signal: bytes) -> None:
        """See `SignalingService`."""
        self._lines.send(to, _on_port(signal, PLAIN_PORT))

    def close(self) -> None:
        """See `SignalingService`."""
        self._lines.close()

    @property
    def status(self) -> str:
        """See `SignalingService`."""
        return self._lines.status


def _on_port(blob: bytes, port: int) -> bytes:
    signal = decode_signal(blob)
    if signal.connect_request is None:
        return blob
    return encode_signal(
        replace(signal, connect_request=replace(signal.connect_request, to_virtual_port=port, from_virtual_port=port))
    )


class PlainPeer:
    """One connection, from its beginning to its end."""

    def __init__(self, role: str, local: str, remote: str, signaling: str, stun: str) -> None:
        host, _, port = signaling.rpartition(":")
        self._role = role
        self._remote = Identity.of(remote)
        self._net = Messages(
            local, signaling=PlainSignaling(host, int(port)), stun=[f"stun:{stun}"], trust="open", config=Config(framing="raw")
        )
        self._net.on_session_request = self._accept
        self._chance = random.Random(1)
        self._sent = {True: 0, False: 0}
        self._received = {True: 0, False: 0}
        self._disordered = 0

    def run(self) -> dict[str, object]:
        """What it came to."""
        if self._role != "server":
            self._send(is_reliable=True)
        self._until_state(ConnectionState.CONNECTED)
        ticks = 0
        while self._state() == ConnectionState.CONNECTED and not (self._role != "server" and ticks >= TICKS):
            self._receive()
            self._send_some()
            ticks += 1
            time.sleep(TICK_S)
        route = self._net.get_session_connection_info(self._remote, True, False).connection
        if self._role != "server" and self._state() == ConnectionState.CONNECTED:
            self._close_as_they_do()
        self._receive()
        time.sleep(1)
        self._net.close()
        return {
            "sent_reliable": self._sent[True],
            "sent_unreliable": self._sent[False],
            "received_reliable": self._received[True],
            "received_unreliable": self._received[False],
            "unreliable_out_of_order": self._disordered,
            "ticks": ticks,
            "flags": int(route.flags) if route is not None else 0,
        }

    def _accept(self, request: SessionRequested) -> None:
        assert request.identity == self._remote
        self._net.accept_session_with_user(request.identity)

    def _state(self) -> ConnectionState:
        self._net.run_callbacks()
        return self._net.get_session_connection_info(self._remote, False, False).state

    def _until_state(self, state: ConnectionState) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while self._state() != state:
            assert time.monotonic() < deadline_s, f"not {state!r} but {self._state()!r}"
            time.sleep(0.002)

    def _close_as_they_do(self) -> None:
        endpoint = self._net._endpoint

        def close(now_us: int) -> None:
            peer = endpoint._peers[self._remote]
            endpoint._remotes.close_peer(peer, End(EndReason.APP_GENERIC, "Test completed OK"), now_us, linger_us=1_000_000)

        self._net._driver.call(close)

    def _send_some(self) -> None:
        status = self._net.get_session_connection_info(self._remote, False, True).status
        if status is None or status.pending_reliable_bytes + status.pending_unreliable_bytes >= _BUFFERED_BYTES_MAX:
            return
        for _ in range(self._chance.randint(0, 4)):
            self._send(is_reliable=self._chance.random() < 0.5)

    def _send(self, *, is_reliable: bool) -> None:
        size = min(8 + int(math.exp(self._chance.random() * math.log(10_232))), 10_240)
        data = _COUNTER.pack(self._sent[is_reliable]).ljust(size, b"\0")
        flags = SendFlags.RELIABLE if is_reliable else SendFlags.UNRELIABLE
        if self._net.send_message_to_user(self._remote, data, flags) == Result.OK:
            self._sent[is_reliable] += 1

    def _receive(self) -> None:
        for message in self._net.receive_messages_on_channel(0, _READ_MAX):
            is_reliable = bool(message.flags & SendFlags.RELIABLE)
            (counter,) = _COUNTER.unpack_from(message.payload)
            expected = self._received[is_reliable]
            assert not is_reliable or counter == expected, f"reliable message {counter}, expected {expected}"
            self._disordered += counter != expected
            self._received[is_reliable] = counter + 1


if __name__ == "__main__":
    print(json.dumps(PlainPeer(*sys.argv[1:]).run()))
