"""What clients and peers send to a relay."""

from __future__ import annotations

from fuzz.run import run
from peergram.servers.relay_access import RelayAccess
from peergram.servers.relay_peers import PeerPolicy
from peergram.servers.turn_core import OpenRelay, ToClient, ToPeer, TurnCore
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_channel_data, encode_stun, long_term_key

_CLIENT, _STRANGER, _PEER, _RELAYED = ("192.0.2.1", 5), ("192.0.2.2", 5), ("203.0.113.9", 6), ("198.51.100.7", 50_000)
_KEY = long_term_key(b"u", b"peergram", b"p")


def fuzz_one(data: bytes) -> None:
    """A stranger gets nothing but errors and leaves nothing. A client with a channel to one peer reaches that peer only, with
    bytes of its own; what that peer sends comes out as it was."""
    core = TurnCore(
        access=RelayAccess(user=b"u", password=b"p"), policy=PeerPolicy(["198.51.100.7"]), families=frozenset({1}), entropy=bytes
    )
    core.handle_client(_STRANGER, _STRANGER, [data], 0, 0)
    while (output := core.poll_output()) is not None:
        assert isinstance(output, ToClient)
        assert all(decode_stun(packet).message_class == Class.ERROR for packet in output.packets)
    assert core.allocations == 0
    _set_up(core)
    core.handle_client(_CLIENT, _CLIENT, [data], 0, 0)
    core.handle_peer(1, _PEER, [data], 0)
    came_back = False
    while (output := core.poll_output()) is not None:
        if isinstance(output, ToPeer):
            assert output.peer == _PEER
            assert all(packet in data for packet in output.packets)
        elif isinstance(output, ToClient):
            assert output.client == _CLIENT
            came_back = came_back or output.packets == [encode_channel_data(0x4000, data)]
    assert came_back


def _set_up(core: TurnCore) -> None:
    for method in (Method.ALLOCATE, Method.CHANNEL_BIND):
        message = StunMessage(method, Class.REQUEST, bytes(12), username=b"u", realm=b"peergram", nonce=b"x")
        if method == Method.ALLOCATE:
            message.requested_transport = 17
        else:
            message.channel_number, message.xor_peer_addresses = 0x4000, [_PEER]
        for _ in range(2):
            core.handle_client(_CLIENT, _CLIENT, [encode_stun(message, integrity_key=_KEY)], 0, 0)
            while (output := core.poll_output()) is not None:
                if isinstance(output, OpenRelay):
                    core.handle_relay_opened(output.relay_id, _RELAYED, 0)
                elif isinstance(output, ToClient) and (nonce := decode_stun(output.packets[0]).nonce) is not None:
                    message.nonce = nonce


def seeds() -> list[bytes]:
    """One of each message."""
    send = StunMessage(Method.SEND, Class.INDICATION, bytes(12), xor_peer_addresses=[_PEER], data=b"data")
    asked = [
        StunMessage(method, Class.REQUEST, bytes(12), requested_transport=17, lifetime_s=600, xor_peer_addresses=[_PEER])
        for method in (Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND)
    ]
    for message in asked:
        message.username, message.realm, message.nonce = b"u", b"peergram", b"A" * 12
    return [
        encode_channel_data(0x4000, b"data", padded=True),
        encode_channel_data(0x4000, encode_stun(asked[0])),
        encode_stun(send),
        *(encode_stun(message, integrity_key=_KEY) for message in asked),
        encode_stun(StunMessage(Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17), fingerprint=False),
    ]


if __name__ == "__main__":
    run(fuzz_one, seeds())
