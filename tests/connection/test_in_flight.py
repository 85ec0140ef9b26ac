"""Packets in flight against a plain list: each is settled once, and the sums agree at every step."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.connection.in_flight import PacketsInFlight, SentPacket
from tests.threats.world import SOAK


def packet(number: int, *, eliciting: bool = True) -> SentPacket:
    """Told apart by its size."""
    return SentPacket(number, number, [], eliciting, 0, 0, 0)


def received_and_missing(latest: int, blocks: list[tuple[int, int]]) -> tuple[set[int], set[int]]:
    """What an ack frame says of the numbers from 0 to `latest`, by the text of the protocol."""
    received, missing = set(range(latest + 1)), set()
    end = latest + 1
    for acked, lost in blocks:
        end -= acked + lost
        missing |= set(range(end, end + lost))
    return received - missing, missing


@settings(max_examples=3_000 if SOAK else 80)
@given(seed=st.integers(0, 1 << 32))
def test_each_packet_is_settled_once_as_the_frames_say(seed: int) -> None:
    rng = Random(seed)
    flight = PacketsInFlight(2)
    open_numbers: dict[int, bool] = {}
    lost: set[int] = set()
    for _ in range(60):
        for _ in range(rng.randrange(8)):
            eliciting = rng.random() < 0.7
            open_numbers[flight.next_number] = eliciting
            flight.add(packet(flight.next_number, eliciting=eliciting))
        latest = max(flight.next_number - 1 - rng.randrange(10), 1)
        blocks = []
        left = latest
        for _ in range(rng.randrange(5)):
            block = rng.randrange(5), rng.randrange(5)
            if sum(block) > left:
                break
            left -= sum(block)
            blocks.append(block)
        received, missing = received_and_missing(latest, blocks)
        newest = latest in open_numbers
        flight.may_revive = True
        settled = flight.settle(latest, blocks)
        decided = [number for number in open_numbers if number <= latest]
        assert sorted(p.size_bytes for p in settled.acked) == [number for number in decided if number in received]
        assert sorted(p.size_bytes for p in settled.lost) == [number for number in decided if number in missing]
        end = latest + 1
        named: set[int] = set()
        for acked, gone in blocks:
            named |= set(range(end - acked, end))
            end -= acked + gone
        assert {p.size_bytes for p in settled.revived} == (lost | {n for n in decided if n in missing}) & named - (
            missing & named
        )
        assert (settled.newest is not None) == newest
        lost = (lost | {number for number in decided if number in missing}) - named
        for number in decided:
            del open_numbers[number]
        assert len(flight) == len(open_numbers)
        assert [p.size_bytes for p in flight.open_packets()] == list(open_numbers)
        assert flight.bytes == sum(number for number, eliciting in open_numbers.items() if eliciting)
        assert flight.eliciting_count == sum(open_numbers.values())
        assert (flight.oldest.size_bytes if flight.oldest else None) == next(iter(open_numbers), None)


def test_a_late_report_is_heard_until_the_packet_is_forgotten() -> None:
    flight = PacketsInFlight(2)
    for number in range(2, 6):
        flight.add(packet(number))
    assert [p.size_bytes for p in flight.settle(5, [(1, 3)]).lost] == [2, 3, 4]
    flight.may_revive = True
    flight.forget_lost(sent_before_us=3)
    assert [p.size_bytes for p in flight.settle(5, [(4, 0)]).revived] == [3, 4]
    flight.may_revive = True
    assert flight.settle(5, [(4, 0)]).revived == []
