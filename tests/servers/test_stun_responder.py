"""Binding requests are answered with the address they came from, at a bounded rate, and nothing else is answered."""

from __future__ import annotations

from random import Random

import pytest

from peergram import config
from peergram.address import Address
from peergram.servers.stun_responder import StunResponder
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun

SOURCE: Address = ("192.0.2.1", 50_000)
TRANSACTION = bytes(range(12))
BARE = encode_stun(StunMessage(Method.BINDING, Class.REQUEST, TRANSACTION), fingerprint=False)


@pytest.mark.parametrize("source", [SOURCE, ("2001:db8::1", 1), ("127.0.0.1", 65_535)])
@pytest.mark.parametrize("fingerprint", [False, True])
def test_a_request_is_told_where_it_came_from(source: Address, fingerprint: bool) -> None:
    request = encode_stun(StunMessage(Method.BINDING, Class.REQUEST, TRANSACTION), fingerprint=fingerprint)
    answer = StunResponder().handle_datagram(source, request, 0)
    assert answer is not None
    told = decode_stun(answer)
    assert (told.method, told.message_class, told.transaction_id) == (Method.BINDING, Class.SUCCESS, TRANSACTION)
    assert told.xor_mapped_address == source
    assert told.has_fingerprint == fingerprint
    assert len(answer) <= len(request) + 24


def test_an_attribute_that_must_be_understood_and_is_not_gets_420() -> None:
    attribute = b"\x7f\x01\x00\x04abcd"
    answer = StunResponder().handle_datagram(SOURCE, BARE[:2] + b"\x00\x08" + BARE[4:] + attribute, 0)
    assert answer is not None
    told = decode_stun(answer)
    assert (told.message_class, told.error_code, told.unknown_attributes) == (Class.ERROR, 420, [0x7F01])


@pytest.mark.parametrize("message_class", [Class.INDICATION, Class.SUCCESS, Class.ERROR])
def test_only_requests_are_answered(message_class: int) -> None:
    message = encode_stun(StunMessage(Method.BINDING, message_class, TRANSACTION), fingerprint=False)
    assert StunResponder().handle_datagram(SOURCE, message, 0) is None


@pytest.mark.parametrize("method", [Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND])
def test_only_binding_is_answered(method: int) -> None:
    message = encode_stun(StunMessage(method, Class.REQUEST, TRANSACTION), fingerprint=False)
    assert StunResponder().handle_datagram(SOURCE, message, 0) is None


def test_noise_is_not_answered() -> None:
    responder, rng = StunResponder(), Random(1)
    for _ in range(2_000):
        damaged = bytearray(BARE + rng.randbytes(rng.randrange(60)))
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(8)] = rng.randrange(256)
        answer = responder.handle_datagram(SOURCE, bytes(damaged), 0)
        assert answer is None or decode_stun(answer).transaction_id == bytes(damaged[8:20])
    assert responder.handle_datagram(SOURCE, BARE + bytes(2_000), 0) is None


def test_answers_to_one_address_and_in_all_are_limited() -> None:
    """E5: a forged source gets no more than this, and all of them together no more than that."""
    responder = StunResponder()
    to_one = [responder.handle_datagram(("192.0.2.1", port), BARE, 0) for port in range(1, 1_000)]
    assert sum(answer is not None for answer in to_one) == config.STUN_ANSWERS_PER_HOST_BURST
    sources = [(f"10.{number >> 8}.{number & 255}.1", 5) for number in range(10_000)]
    to_all = [responder.handle_datagram(source, BARE, 0) for source in sources]
    answered = sum(answer is not None for answer in to_all)
    assert answered == config.STUN_ANSWERS_BURST - config.STUN_ANSWERS_PER_HOST_BURST
    assert responder.counters == {"answered": config.STUN_ANSWERS_BURST, "too_many": 999 + 10_000 - config.STUN_ANSWERS_BURST}
