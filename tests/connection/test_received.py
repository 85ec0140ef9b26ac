"""Packet numbers received: the replay window against a set, and acks against what really arrived."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.config import ACK_GAPS_MAX, NACK_DELAY_MAX_US, NACK_DELAY_US
from peergram.connection.in_flight import PacketsInFlight, SentPacket
from peergram.connection.limits import OWN, REFERENCE
from peergram.connection.received import AcksOwed, ReplayWindow
from peergram.timing import NEVER
from tests.threats.world import SOAK

# --- replay window ---


def moves(rng: Random, window: ReplayWindow) -> int:
    """The next number a bad network and a worse attacker bring."""
    near = window.highest + rng.choice((1, 1, 1, 1, 2, 3, -1, -2, -5))
    far = window.highest + rng.choice((70, 130, 1_000, 5_000, -70, -500, -8_000, -20_000))
    return near if rng.random() < 0.97 else far


@settings(max_examples=300 if SOAK else 15)
@given(seed=st.integers(0, 1 << 32), thinned=st.booleans())
def test_no_number_is_new_twice(seed: int, thinned: bool) -> None:
    """A million steps in a soak, against a set of all numbers seen."""
    rng = Random(seed)
    window = ReplayWindow(1)
    seen = {0, 1}
    if thinned:
        for number in (*range(3, 3_003, 2), *range(2, 3_003, 2), *range(3_003, 5_200)):
            if window.is_new(number):
                window.add(number)
            seen.add(number)
    for _ in range(3_000):
        number = (
            moves(rng, window)
            if rng.random() < 0.9
            else rng.choice((rng.randrange(window.highest), window.floor - 1, window.floor))
        )
        if window.is_new(number):
            assert number not in seen
            window.add(number)
        seen.add(number)


@settings(max_examples=1_000 if SOAK else 30)
@given(seed=st.integers(0, 1 << 32))
def test_a_number_within_reach_that_did_not_come_is_new(seed: int) -> None:
    rng = Random(seed)
    window = ReplayWindow(1)
    seen = {0, 1}
    for _ in range(500):
        number = moves(rng, window)
        reach = (window.highest & ~63) - OWN.replay_reach_packets
        assert window.is_new(number) == (number not in seen and number >= max(reach, 0)) or number < 0
        if window.is_new(number):
            window.add(number)
            seen.add(number)


def test_the_reference_window_forgets_everything_below_a_leap_of_a_hundred() -> None:
    fresh = ReplayWindow(1, REFERENCE)
    fresh.add(2)
    fresh.add(102)
    assert not fresh.is_new(50)
    near = ReplayWindow(1, REFERENCE)
    near.add(2)
    near.add(101)
    assert near.is_new(50)


# --- acks ---


def packet(at_us: int) -> SentPacket:
    return SentPacket(at_us, 100, [], True, 0, 0, 0)


@settings(max_examples=3_000 if SOAK else 60)
@given(seed=st.integers(0, 1 << 32), loss=st.sampled_from((0.0, 0.05, 0.5)), blocks_max=st.sampled_from((64, 64, 21, 5)))
def test_every_packet_reported_received_was_received(seed: int, loss: float, blocks_max: int) -> None:
    """Reports of one side, lost and late ones among them, settled by the other: the truth, and in the end all of it."""
    rng = Random(seed)
    acks, sent = AcksOwed(1), PacketsInFlight(2)
    received: set[int] = set()
    said_received: set[int] = set()
    numbers: dict[int, int] = {}
    under_way: list[tuple[int, int]] = []
    now_us = 1_000_000

    def report(lost: bool) -> None:
        said = acks.report(now_us, blocks_max)
        assert len(said.blocks) <= blocks_max + 1
        assert said.latest in received or said.latest == 1 or said.latest < min(received, default=2)
        if lost:
            return
        settled = sent.settle(said.latest, said.blocks)
        for settled_packet in (*settled.acked, *settled.revived):
            number = numbers[id(settled_packet)]
            assert number in received
            said_received.add(number)

    kept: list[SentPacket] = []
    for _ in range(300):
        now_us += rng.choice((50, 500, 5_000))
        kept.append(packet(now_us))
        numbers[id(kept[-1])] = sent.next_number
        stop_waiting, number = sent.reported, sent.next_number
        sent.add(kept[-1])
        if rng.random() >= loss:
            under_way.append((number, stop_waiting))
        if len(under_way) > 1 and rng.random() < 0.2:
            under_way[-1], under_way[-2] = under_way[-2], under_way[-1]
        while under_way and rng.random() < 0.7:
            number, stop_waiting = under_way.pop(0)
            assert acks.handle_stop_waiting(stop_waiting, number)
            acks.add(number, now_us)
            received.add(number)
        assert len(acks._runs) <= ACK_GAPS_MAX
        if rng.random() < 0.3:
            report(lost=rng.random() < loss)
    for number, stop_waiting in under_way:
        assert acks.handle_stop_waiting(stop_waiting, number)
        acks.add(number, now_us)
        received.add(number)
    for _ in range(80):
        now_us += 1_000_000
        report(lost=False)
        assert acks.handle_stop_waiting(sent.reported, sent.next_number)
    assert said_received <= received
    assert sent.reported >= max(received, default=1)


def test_a_hole_is_reported_after_its_patience_and_not_before() -> None:
    acks = AcksOwed(1)
    acks.add(2, 1_000)
    acks.add(4, 2_000)
    assert acks.report(2_000).latest == 2
    assert acks.due_at_us == 2_000 + NACK_DELAY_US
    late = acks.report(2_000 + NACK_DELAY_US)
    assert (late.latest, late.blocks) == (4, [(1, 1)])
    assert acks.due_at_us == NEVER


def test_patience_grows_where_packets_overtake_each_other_and_wears_off_where_they_are_lost() -> None:
    acks = AcksOwed(1)
    now_us = 1_000_000
    for number in range(3, 60, 2):
        acks.add(number, now_us)
        acks.report(now_us + 100_000)
        acks.add(number - 1, now_us + 10_000)
        now_us += 200_000
    assert NACK_DELAY_US < acks.nack_delay_us <= NACK_DELAY_MAX_US
    learned_us = acks.nack_delay_us
    for number in range(100, 2_000, 2):
        acks.add(number, now_us)
        assert acks.handle_stop_waiting(number, number)
    assert acks.nack_delay_us < learned_us


def test_a_stop_waiting_value_that_goes_down_in_a_later_packet_is_refused() -> None:
    acks = AcksOwed(1)
    for number in range(2, 20):
        acks.add(number, 1_000)
    assert acks.handle_stop_waiting(10, 15)
    assert acks.handle_stop_waiting(10, 16)
    assert acks.handle_stop_waiting(8, 14)
    assert not acks.handle_stop_waiting(9, 15)
    assert not acks.handle_stop_waiting(9, 17)


def test_packets_below_the_stop_waiting_value_are_not_reported() -> None:
    acks = AcksOwed(1)
    for number in (2, 5, 9):
        acks.add(number, 1_000)
    assert acks.handle_stop_waiting(7, 9)
    said = acks.report(1_000_000)
    assert (said.latest, said.blocks) == (9, [(1, 2)])
    acks.add(4, 1_000_000)
    assert acks.report(2_000_000).blocks == [(1, 2)]
