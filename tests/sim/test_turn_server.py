from __future__ import annotations

from typing import Any

import pytest

from peergram.address import Address
from peergram.sim.turn_server import CHANNEL_US, PERMISSION_US, Sends, ToClient, ToPeer, TurnModel, TurnServerCore
from peergram.wire.stun import (
    Class,
    Method,
    StunMessage,
    decode_channel_data,
    decode_stun,
    encode_channel_data,
    encode_stun,
    integrity_holds,
    long_term_key,
)

CLIENT: Address = ("203.0.113.9", 4_000)
PEER: Address = ("198.51.100.7", 5_000)
RELAY_HOST = "203.0.113.1"
KEY = long_term_key(b"user", b"sim", b"password")
SECOND_US = 1_000_000


class Talk:
    """A client by hand: every request with its credentials, unless told otherwise."""

    def __init__(self, **model: Any) -> None:
        self.core = TurnServerCore(TurnModel(**model), [RELAY_HOST], b"secret")
        self.now_us = 0
        self.numbers = 0
        self.nonce: bytes | None = None
        self.key: bytes | None = KEY

    def id(self) -> bytes:
        self.numbers += 1
        return self.numbers.to_bytes(12, "big")

    def send(self, data: bytes, client: Address = CLIENT) -> Sends:
        return self.core.handle(client, client, data, self.now_us)

    def request(self, method: int, client: Address = CLIENT, **fields: Any) -> StunMessage:
        values: dict[str, Any] = {"transaction_id": self.id()}
        if self.nonce is not None:
            values.update(username=b"user", realm=b"sim", nonce=self.nonce)
        message = StunMessage(method, Class.REQUEST, **{**values, **fields})
        (answer,) = self.send(encode_stun(message, integrity_key=self.key if self.nonce else None), client)
        assert isinstance(answer, ToClient)
        decoded = decode_stun(answer.data)
        assert decoded.transaction_id == message.transaction_id
        if decoded.message_class == Class.SUCCESS and method != Method.BINDING:
            assert integrity_holds(answer.data, KEY)
        return decoded

    def log_in(self) -> None:
        self.nonce = None
        answer = self.request(Method.ALLOCATE, requested_transport=17)
        assert (answer.error_code, answer.realm) == (401, b"sim")
        self.nonce = answer.nonce

    def allocate(self, **fields: Any) -> Address:
        self.log_in()
        answer = self.request(Method.ALLOCATE, requested_transport=17, **fields)
        assert answer.xor_relayed_address is not None, answer
        assert answer.xor_mapped_address == CLIENT
        return answer.xor_relayed_address

    def permit(self, peer: Address = PEER) -> None:
        answer = self.request(Method.CREATE_PERMISSION, xor_peer_addresses=[peer])
        assert answer.message_class == Class.SUCCESS, answer

    def indication(self, data: bytes, peer: Address = PEER) -> Sends:
        message = StunMessage(Method.SEND, Class.INDICATION, self.id(), xor_peer_addresses=[peer], data=data)
        return self.send(encode_stun(message))

    def from_peer(self, relayed: Address, data: bytes = b"hello", peer: Address = PEER) -> Sends:
        return self.core.handle_peer(relayed, peer, data, self.now_us)


def test_everybody_is_told_where_he_comes_from() -> None:
    assert Talk().request(Method.BINDING).xor_mapped_address == CLIENT


def test_an_allocation_needs_the_right_password() -> None:
    talk = Talk()
    talk.log_in()
    talk.key = long_term_key(b"user", b"sim", b"wrong")
    assert talk.request(Method.ALLOCATE, requested_transport=17).error_code == 401
    talk.key = KEY
    assert talk.request(Method.ALLOCATE, requested_transport=17, username=b"stranger").error_code == 401
    assert talk.core.allocations == 0
    assert talk.request(Method.ALLOCATE, requested_transport=17).xor_relayed_address is not None


def test_a_stale_nonce_is_replaced() -> None:
    talk = Talk(nonce_us=10 * SECOND_US)
    talk.allocate()
    talk.now_us = 11 * SECOND_US
    answer = talk.request(Method.REFRESH)
    assert answer.error_code == 438
    talk.nonce = answer.nonce
    assert talk.request(Method.REFRESH).lifetime_s == 600


def test_the_same_request_again_gets_the_same_answer_and_another_one_a_refusal() -> None:
    talk = Talk()
    talk.log_in()
    first, again = (talk.request(Method.ALLOCATE, requested_transport=17, transaction_id=bytes(12)) for _ in range(2))
    assert first.xor_relayed_address == again.xor_relayed_address
    assert talk.request(Method.ALLOCATE, requested_transport=17).error_code == 437


@pytest.mark.parametrize(
    ("fields", "code"),
    [({}, 400), ({"requested_transport": 6}, 442), ({"requested_transport": 17, "requested_address_family": 2}, 440)],
)
def test_what_cannot_be_allocated_is_refused_with(fields: dict[str, Any], code: int) -> None:
    talk = Talk()
    talk.log_in()
    assert talk.request(Method.ALLOCATE, **fields).error_code == code


def test_a_full_server_refuses() -> None:
    talk = Talk(allocations_max=1)
    talk.allocate()
    assert talk.request(Method.ALLOCATE, ("203.0.113.10", 1), requested_transport=17).error_code == 486


def test_data_goes_both_ways_in_indications_with_a_permission_only() -> None:
    talk = Talk()
    relayed = talk.allocate()
    assert talk.indication(b"early") == []
    assert talk.from_peer(relayed) == []
    talk.permit()
    assert talk.indication(b"out") == [ToPeer(relayed, PEER, b"out")]
    (send,) = talk.from_peer(relayed, b"in", (PEER[0], 9))
    assert isinstance(send, ToClient)
    indication = decode_stun(send.data)
    assert (indication.method, indication.data, indication.xor_peer_addresses) == (Method.DATA, b"in", [(PEER[0], 9)])
    assert talk.from_peer(relayed, b"stranger", ("192.0.2.1", 1)) == []


def test_data_goes_both_ways_over_a_channel() -> None:
    talk = Talk()
    relayed = talk.allocate()
    assert talk.request(Method.CHANNEL_BIND, channel_number=0x4001, xor_peer_addresses=[PEER]).message_class == Class.SUCCESS
    assert talk.send(encode_channel_data(0x4001, b"out")) == [ToPeer(relayed, PEER, b"out")]
    (send,) = talk.from_peer(relayed, b"in")
    assert isinstance(send, ToClient)
    assert decode_channel_data(send.data) == (0x4001, b"in")


@pytest.mark.parametrize(
    ("number", "peer"), [(0x4001, (PEER[0], 9)), (0x4002, PEER), (0x3FFF, ("192.0.2.1", 1)), (None, ("192.0.2.1", 1))]
)
def test_a_channel_belongs_to_one_peer_and_a_peer_to_one_channel(number: int | None, peer: Address) -> None:
    talk = Talk()
    talk.allocate()
    talk.request(Method.CHANNEL_BIND, channel_number=0x4001, xor_peer_addresses=[PEER])
    assert talk.request(Method.CHANNEL_BIND, channel_number=number, xor_peer_addresses=[peer]).error_code == 400


def test_permissions_channels_and_allocations_end_unless_refreshed() -> None:
    talk = Talk()
    relayed = talk.allocate()
    talk.request(Method.CHANNEL_BIND, channel_number=0x4001, xor_peer_addresses=[PEER])
    talk.now_us = PERMISSION_US
    assert talk.indication(b"x") == talk.send(encode_channel_data(0x4001, b"x")) == []
    talk.permit()
    assert len(talk.send(encode_channel_data(0x4001, b"x"))) == 1
    talk.request(Method.REFRESH, lifetime_s=3_600)
    talk.now_us = CHANNEL_US
    talk.permit()
    assert talk.send(encode_channel_data(0x4001, b"x")) == []
    assert len(talk.indication(b"x")) == 1
    talk.now_us = 2 * CHANNEL_US * 6
    assert talk.from_peer(relayed) == []
    assert talk.core.allocations == 0


def test_a_refresh_with_no_lifetime_gives_the_allocation_back() -> None:
    talk = Talk()
    talk.allocate()
    assert talk.request(Method.REFRESH, lifetime_s=0).lifetime_s == 0
    assert talk.core.allocations == 0
    assert talk.request(Method.REFRESH).error_code == 437


def test_peers_of_another_family_or_of_no_interest_are_refused() -> None:
    talk = Talk(refuses_peers=frozenset({"127.0.0.1"}))
    talk.allocate()
    assert talk.request(Method.CREATE_PERMISSION, xor_peer_addresses=[("2001:db8::1", 1)]).error_code == 443
    assert talk.request(Method.CREATE_PERMISSION, xor_peer_addresses=[PEER, ("127.0.0.1", 1)]).error_code == 403
    assert talk.request(Method.CREATE_PERMISSION).error_code == 400
    assert talk.indication(b"x") == []


def test_another_user_cannot_touch_an_allocation() -> None:
    talk = Talk(users={b"user": b"password", b"other": b"word"})
    talk.allocate()
    talk.key = long_term_key(b"other", b"sim", b"word")
    message = StunMessage(Method.REFRESH, Class.REQUEST, bytes(12), username=b"other", realm=b"sim", nonce=talk.nonce)
    (answer,) = talk.send(encode_stun(message, integrity_key=talk.key))
    assert decode_stun(answer.data).error_code == 441


def test_unknown_attributes_that_matter_are_named() -> None:
    talk = Talk()
    data = bytearray(encode_stun(StunMessage(Method.BINDING, Class.REQUEST, bytes(12)), fingerprint=False))
    data += b"\x7f\xff\x00\x00"
    data[3] = 4
    (answer,) = talk.send(bytes(data))
    decoded = decode_stun(answer.data)
    assert (decoded.error_code, decoded.unknown_attributes) == (420, [0x7FFF])


def test_noise_gets_no_answer() -> None:
    talk = Talk()
    for data in (b"", b"\x00", bytes(20), b"\x40\x00\x00\x01", b"\x80" * 60, encode_channel_data(0x4001, b"unbound")):
        assert talk.send(data) == []
    answer = encode_stun(StunMessage(Method.BINDING, Class.SUCCESS, bytes(12)))
    assert talk.send(answer) == []


def test_a_server_without_users_asks_nobody() -> None:
    talk = Talk(users={})
    message = StunMessage(Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17)
    (answer,) = talk.send(encode_stun(message))
    assert decode_stun(answer.data).xor_relayed_address is not None
