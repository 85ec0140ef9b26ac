"""The bad link of the benchmark, in virtual time."""

from __future__ import annotations

import pytest

from benches.cases import LINK_BYTES_PER_S, LINK_DELAY_S, LINK_LOSS, LINK_QUEUE_BYTES
from benches.link import Direction

SIZE = 1_250
SPACING_S = SIZE / LINK_BYTES_PER_S


def test_a_lone_datagram_takes_its_own_length_and_the_delay() -> None:
    assert Direction(seed=1).leaves_at_s(SIZE, 10.0) == pytest.approx(10.0 + SPACING_S + LINK_DELAY_S)


def test_more_than_the_rate_leaves_at_the_rate_and_never_waits_longer_than_the_queue() -> None:
    way = Direction(seed=2)
    departures = [(at_s, way.leaves_at_s(SIZE, at_s)) for at_s in (number * SPACING_S / 4 for number in range(20_000))]
    carried = [(at_s, leaves_at_s) for at_s, leaves_at_s in departures if leaves_at_s is not None]
    elapsed_s = carried[-1][1] - carried[0][1]
    assert (len(carried) - 1) * SIZE / elapsed_s == pytest.approx(LINK_BYTES_PER_S, rel=0.001)
    waited_s = max(leaves_at_s - at_s for at_s, leaves_at_s in carried)
    assert waited_s <= LINK_QUEUE_BYTES / LINK_BYTES_PER_S + LINK_DELAY_S + 1e-6


def test_below_the_rate_one_in_a_hundred_is_lost() -> None:
    way = Direction(seed=3)
    lost = sum(way.leaves_at_s(SIZE, number * SPACING_S * 1.1) is None for number in range(50_000))
    assert lost / 50_000 == pytest.approx(LINK_LOSS, rel=0.15)


def test_the_same_seed_loses_the_same_datagrams() -> None:
    def fates(seed: int) -> list[bool]:
        way = Direction(seed)
        return [way.leaves_at_s(SIZE, float(number)) is None for number in range(2_000)]

    assert fates(5) == fates(5) != fates(6)
