"""Flows without a handshake: the state of an established connection whose cipher is none, for tests below the encryption."""

from __future__ import annotations

from peergram.config import Config
from peergram.connection.flow import Delivered, Flow
from peergram.connection.handshake import Established
from peergram.connection.limits import OWN, ReceiveLimits
from peergram.crypto.seal import NullCipher
from peergram.identity import Identity
from peergram.wire.certificates import Capabilities


def established(*, own_peer: bool = False, version: int = 13) -> Established:
    return Established(
        send_cipher=NullCipher(),
        receive_cipher=NullCipher(),
        cipher=1,
        peer_connection_id=0x00020002,
        peer_identity=Identity.of("bob"),
        peer_key=bytes(32),
        peer_fingerprint="",
        protocol_version=version,
        capabilities=Capabilities(0, bytes(16)) if own_peer else None,
        proven_by="nothing",
        next_packet_number=2,
        highest_received=1,
        ping_samples_ms=[],
        rtt_us=None,
    )


def delivered_messages(delivered: list[Delivered]) -> list[tuple[int, int, bool, bytes]]:
    """Lane, number, whether reliable and payload of each message."""
    return [
        (lane, number, reliable, data)
        for lane, reliable, numbers, payloads, _ in delivered
        for number, data in zip(numbers, payloads, strict=True)
    ]


def make_flow(
    config: Config | None = None, limits: ReceiveLimits = OWN, *, own_peer: bool = False, now_us: int = 1_000_000
) -> Flow:
    return Flow(established(own_peer=own_peer), config or Config(), now_us, limits)
