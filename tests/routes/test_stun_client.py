"""Finding out a mapped address, whatever servers and strangers say."""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest

from peergram.address import Address
from peergram.config import STUN_ANSWER_BYTES_MAX, STUN_ATTEMPTS_MAX
from peergram.routes.candidates import is_usable
from peergram.routes.stun_client import MappingChanged, StunClient
from peergram.wire.stun import StunMessage, decode_stun, encode_stun
from tests.routes.servers import answer, counting_entropy, refusal

SECOND = 1_000_000
ONE, TWO, THREE = ("192.0.2.1", 3478), ("192.0.2.2", 3478), ("192.0.2.3", 3478)
MAPPED, OTHER = ("203.0.113.5", 1111), ("203.0.113.5", 2222)


def client(*servers: Address, allow_redirect: bool = False) -> StunClient:
    made = StunClient(
        entropy=counting_entropy(),
        is_usable=lambda address: is_usable(address, allow_loopback=False),
        allow_redirect=allow_redirect,
    )
    for server in servers:
        made.add_server(server, 0)
    return made


def sent(stun: StunClient, now_us: int) -> dict[Address, StunMessage]:
    found = {}
    while (transmit := stun.poll_transmit(now_us)) is not None:
        found[transmit[0]] = decode_stun(transmit[1])
    return found


def reply(stun: StunClient, server: Address, message: StunMessage, now_us: int = 0) -> bool:
    datagram = encode_stun(message)
    return stun.handle_response(server, decode_stun(datagram), len(datagram), now_us)


def run_out(stun: StunClient, until_us: int) -> list[tuple[int, Address]]:
    """Nobody answers until then: who is asked when."""
    asked = [(0, server) for server in sent(stun, 0)]
    while (deadline := stun.poll_timeout()) is not None and deadline.at_us <= until_us:
        stun.handle_timeout(deadline.at_us)
        asked += [(deadline.at_us, server) for server in sent(stun, deadline.at_us)]
    return asked


def test_all_servers_are_asked_at_once_and_the_first_answer_decides() -> None:
    stun = client(ONE, TWO, THREE)
    requests = sent(stun, 0)
    assert set(requests) == {ONE, TWO, THREE}
    assert stun.is_asking
    assert reply(stun, TWO, answer(requests[TWO], xor_mapped_address=MAPPED))
    assert not reply(stun, ONE, answer(requests[ONE], xor_mapped_address=OTHER))
    assert stun.poll_event() == MappingChanged(None, MAPPED, TWO)
    assert stun.poll_event() is None
    assert (stun.mapped, stun.mapped_by, stun.is_asking) == (MAPPED, TWO, False)


def test_requests_carry_no_address_of_ours() -> None:
    request = sent(client(ONE), 0)[ONE]
    assert request.mapped_address is None
    assert request.xor_mapped_address is None
    assert request.has_fingerprint


def test_a_silent_server_is_asked_five_times_with_growing_pauses() -> None:
    times = [at_us for at_us, _ in run_out(client(ONE), 6 * SECOND)]
    assert times == [0, 250_000, 750_000, 1_750_000, 3_750_000]
    assert len(times) == STUN_ATTEMPTS_MAX


def test_after_a_silence_all_are_asked_again_later() -> None:
    asked = run_out(client(ONE, TWO), 25 * SECOND)
    assert {server for at_us, server in asked if at_us > 6 * SECOND} == {ONE, TWO}
    assert len(asked) == 4 * STUN_ATTEMPTS_MAX


def test_an_old_style_answer_counts() -> None:
    stun = client(ONE)
    assert reply(stun, ONE, answer(sent(stun, 0)[ONE], mapped_address=MAPPED))
    assert stun.mapped == MAPPED


def test_the_mapping_is_kept_and_its_change_noticed() -> None:
    stun = client(ONE, TWO)
    reply(stun, ONE, answer(sent(stun, 0)[ONE], xor_mapped_address=MAPPED))
    deadline = stun.poll_timeout()
    assert deadline is not None
    assert deadline.at_us == 15 * SECOND
    stun.handle_timeout(15 * SECOND)
    requests = sent(stun, 15 * SECOND)
    assert set(requests) == {ONE}
    reply(stun, ONE, answer(requests[ONE], xor_mapped_address=OTHER), 15 * SECOND)
    assert [stun.poll_event(), stun.poll_event()] == [MappingChanged(None, MAPPED, ONE), MappingChanged(MAPPED, OTHER, ONE)]


def test_when_the_chosen_server_dies_the_others_are_asked() -> None:
    stun = client(ONE, TWO)
    reply(stun, ONE, answer(sent(stun, 0)[ONE], xor_mapped_address=MAPPED))
    asked = run_out(stun, 21 * SECOND)
    assert (20_750_000, TWO) in asked
    assert stun.mapped == MAPPED


def test_an_error_of_the_chosen_server_makes_room_for_others() -> None:
    stun = client(ONE, TWO)
    reply(stun, ONE, answer(sent(stun, 0)[ONE], xor_mapped_address=MAPPED))
    stun.handle_timeout(15 * SECOND)
    reply(stun, ONE, refusal(sent(stun, 15 * SECOND)[ONE], 500), 15 * SECOND)
    assert TWO in sent(stun, 15 * SECOND)


@pytest.mark.parametrize("code", [300, 400, 401, 420, 438, 500, 699])
def test_an_error_ends_the_questions_to_that_server_for_now(code: int) -> None:
    stun = client(ONE, TWO)
    requests = sent(stun, 0)
    assert reply(stun, ONE, refusal(requests[ONE], code, unknown_attributes=[0x8028], alternate_server=THREE))
    assert {server for _, server in run_out(stun, 6 * SECOND)} == {TWO}


def test_a_redirect_is_followed_once_if_that_is_allowed() -> None:
    stun = client(ONE, allow_redirect=True)
    reply(stun, ONE, refusal(sent(stun, 0)[ONE], 300, alternate_server=TWO))
    again = sent(stun, 0)
    assert set(again) == {TWO}
    reply(stun, TWO, refusal(again[TWO], 300, alternate_server=THREE))
    assert sent(stun, 0) == {}


@pytest.mark.parametrize(
    "victim", [("127.0.0.1", 53), ("224.0.0.1", 53), ("255.255.255.255", 9), ("192.0.2.9", 0), ("169.254.169.254", 80)]
)
def test_a_redirect_leads_to_no_odd_place(victim: Address) -> None:
    stun = client(ONE, allow_redirect=True)
    reply(stun, ONE, refusal(sent(stun, 0)[ONE], 300, alternate_server=victim))
    assert sent(stun, 0) == {}


def test_an_answer_that_must_be_understood_and_is_not_counts_for_nothing() -> None:
    stun = client(ONE)
    message = answer(sent(stun, 0)[ONE], xor_mapped_address=MAPPED)
    assert stun.handle_response(ONE, replace(message, unknown_required=[0x7F00]), 32, 0)
    assert stun.mapped is None


@pytest.mark.parametrize("mapped", [None, ("0.0.0.0", 5), ("224.0.0.1", 5), ("203.0.113.5", 0), ("127.0.0.1", 9)])
def test_an_answer_without_a_possible_address_counts_for_nothing(mapped: Address | None) -> None:
    stun = client(ONE)
    assert reply(stun, ONE, answer(sent(stun, 0)[ONE], xor_mapped_address=mapped))
    assert stun.mapped is None


def test_a_long_answer_is_not_looked_at() -> None:
    stun = client(ONE)
    request = sent(stun, 0)[ONE]
    reply(stun, ONE, answer(request, xor_mapped_address=MAPPED, data=bytes(STUN_ANSWER_BYTES_MAX)))
    assert stun.mapped is None
    reply(stun, ONE, answer(request, xor_mapped_address=MAPPED))
    assert stun.mapped == MAPPED


def test_forged_answers_change_nothing() -> None:
    """Neither the right transaction from another address, nor the right address with other transactions (I1)."""
    stun = client(ONE, TWO)
    requests = sent(stun, 0)
    rng = random.Random(1)
    forged = answer(requests[ONE], xor_mapped_address=OTHER)
    for source in (TWO, THREE, ("192.0.2.1", 3479), ("192.0.2.11", 3478)):
        assert not stun.handle_response(source, forged, 32, 0)
    for _ in range(1_000_000 if os.environ.get("PEERGRAM_SOAK") else 20_000):
        guess = StunMessage(1, 2, rng.randbytes(12), xor_mapped_address=OTHER)
        assert not stun.handle_response(ONE, guess, 32, 0)
    assert stun.mapped is None
    assert stun.poll_event() is None
