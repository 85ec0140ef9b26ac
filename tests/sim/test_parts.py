"""The small parts: clock, trace, footprint, ledger, the strict look at packets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.events import Message
from peergram.identity import Identity
from peergram.sim.clock import HostClock
from peergram.sim.footprint import footprint_bytes
from peergram.sim.ledger import Failure, Ledger, Sent
from peergram.sim.trace import Trace, render, replay_command
from peergram.sim.wire_check import StrictError, check_packet
from tests.vectors_data import load


@given(st.integers(-1_000, 1_000), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_clock_shows_a_time_at_the_first_moment_it_is_reached(ppm: int, jump_at_us: int, later_us: int) -> None:
    clock = HostClock(5_000, ppm)
    clock.jump(jump_at_us, 777)
    local_us = clock.local_us(jump_at_us + later_us)
    world_us = clock.world_us(local_us)
    assert clock.local_us(world_us) >= local_us
    assert clock.local_us(world_us - 1) < local_us


def test_the_digest_of_a_trace_covers_every_line() -> None:
    one, same, other = Trace(keep=True), Trace(), Trace()
    for trace, what in ((one, "a"), (same, "a"), (other, "b")):
        trace.add(1_500_000, "host-0", what)
    assert one.digest() == same.digest() != other.digest()
    assert render(one.lines) == "    1.500000  host-0   a"
    assert replay_command(7, {"loss", "one way"}) == "peergram sim --seeds 1 --from 7 --trace --off loss --off 'one way'"


def test_a_footprint_grows_with_what_is_held_and_not_with_what_is_shared() -> None:
    shared = bytes(100_000)
    assert footprint_bytes([bytes(100_000)]) > 100_000
    assert footprint_bytes([shared], without=[shared]) < 1_000
    assert footprint_bytes({"method": print, "kind": dict}) < 2_000


def a_ledger_with(count: int) -> tuple[Ledger, list[Sent]]:
    ledger = Ledger()
    for number in range(count):
        ledger.accepted(Sent(0, 0, 0, "str:b", 1, 0, True, ledger.payload(30), at_us=number * 10))
    return ledger, ledger.records


def a_message(payload: bytes) -> Message:
    return Message(Identity.string("a"), 0, payload, 1, True, 0)


def test_a_received_message_finds_its_record_once() -> None:
    ledger, records = a_ledger_with(3)
    message = a_message(records[1].payload)
    found = ledger.find(1, 0, message, frozenset({0}), "str:b")
    assert found is records[1]
    ledger.delivered(found, "str:a", 50)
    assert ledger.find(1, 0, message, frozenset({0}), "str:b") is None
    assert ledger.find_delivered(1, 0, message.payload) is records[1]


def test_what_is_neither_delivered_nor_reported_is_missing() -> None:
    ledger, records = a_ledger_with(4)
    ledger.delivered(records[0], "str:a", 50)
    assert ledger.unsettled() == records[1:]
    ledger.failed(0, 0, "str:b", 1, Failure(60, messages=2, bytes=200, reason=5003))
    assert ledger.unsettled() == records[3:]


def test_a_report_covers_only_what_was_sent_before_it() -> None:
    ledger, records = a_ledger_with(1)
    ledger.failed(0, 0, "str:b", 1, Failure(60, messages=5, bytes=500, reason=5003))
    ledger.accepted(Sent(0, 0, 0, "str:b", 1, 0, True, ledger.payload(30), at_us=100))
    assert ledger.unsettled() == records[1:]


def test_a_report_under_another_name_of_the_same_peer_counts() -> None:
    ledger, records = a_ledger_with(2)
    ledger.failed(0, 0, "ip:10.0.0.2:7000", 1, Failure(60, messages=1, bytes=100, reason=5003))
    assert ledger.unsettled() == records
    ledger.failed(0, 0, "ip:10.0.0.2:7000", 1, Failure(70, messages=1, bytes=100, reason=5003))
    assert ledger.unsettled() == []


def test_what_a_receiver_threw_away_is_not_missing() -> None:
    ledger, records = a_ledger_with(3)
    ledger.receiver_closed(1, 0, until_us=10)
    assert ledger.unsettled() == records[2:]


def test_what_a_sender_lost_with_its_memory_is_not_missing() -> None:
    ledger, _ = a_ledger_with(3)
    ledger.sender_crashed(0, 0)
    assert ledger.unsettled() == []


def test_what_a_sender_let_go_of_arrives_or_is_reported() -> None:
    ledger, records = a_ledger_with(3)
    ledger.sender_closed(0, 0, 1)
    assert ledger.unsettled() == records
    ledger.delivered(records[0], "str:a", 50)
    ledger.reported_after_closing(0, 0, "str:b", 1, 1)
    assert ledger.unsettled() == records[2:]
    ledger.reported_after_closing(0, 0, "str:b", 1, 1)
    assert ledger.unsettled() == []


def test_closing_does_not_excuse_what_was_lost_with_an_earlier_session() -> None:
    ledger, records = a_ledger_with(3)
    ledger.failed(0, 0, "str:b", 1, Failure(60, messages=1, bytes=100, reason=5003))
    ledger.sender_closed(0, 0, 1)
    ledger.sender_crashed(0, 0)
    assert ledger.unsettled() == records[1:]


def test_a_report_of_fewer_bytes_than_were_lost_is_seen() -> None:
    ledger, records = a_ledger_with(2)
    lost_bytes = sum(len(record.payload) for record in records)
    ledger.failed(0, 0, "str:b", 1, Failure(60, messages=2, bytes=lost_bytes - 1, reason=5003))
    (talk,) = ledger.talks.values()
    assert ledger.too_few_bytes(talk) == (lost_bytes - 1, lost_bytes)
    ledger.delivered(records[0], "str:a", 50)
    assert ledger.too_few_bytes(talk) is None


def test_every_recorded_packet_of_the_reference_is_strictly_right() -> None:
    recorded = [
        bytes.fromhex(packet["hex"]) + bytes(packet.get("zero_padding", 0))
        for conversation in load("01-crypto")["conversations"]
        for packet in conversation["packets"]
    ]
    assert len(recorded) > 20
    for packet in recorded:
        check_packet(packet)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(4),
        bytes(600),
        b"\x20" + bytes(511),
        b"\x20\x05\x00\x0d\x01\x02\x03\x04".ljust(512, b"\0"),
        b"\x80" + bytes(5),
        b"\x80" + bytes(6),
        b"\xc0" + bytes(20),
        b"\x81" + bytes(6) + b"\x05",
        b"\x80" + bytes(65_000),
        b"\x22" + bytes(1_300),
        b"\x25\x1d" + bytes(4) + b"\x15" + bytes(4),
        b"\x25\x15" + bytes(3),
    ],
)
def test_a_packet_that_is_not_as_written_is_refused(packet: bytes) -> None:
    with pytest.raises(StrictError):
        check_packet(packet)
