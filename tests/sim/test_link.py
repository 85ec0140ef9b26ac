from __future__ import annotations

from itertools import pairwise
from random import Random

from peergram.sim.link import Datagram, Link, LinkModel, damaged

FROM, TO = ("10.0.0.1", 1), ("10.0.0.2", 2)


def send_many(model: LinkModel, count: int = 2_000, size: int = 100, gap_us: int = 1_000) -> tuple[Link, list[tuple[int, bytes]]]:
    link = Link(model, Random(1))
    arrivals: list[tuple[int, bytes]] = []
    for number in range(count):
        packet = Datagram(FROM, TO, number.to_bytes(4, "big") + bytes(size - 4))
        arrivals += [(at_us, datagram.data) for at_us, datagram in link.send(packet, number * gap_us)]
    return link, arrivals


def numbers(arrivals: list[tuple[int, bytes]]) -> list[int]:
    return [int.from_bytes(data[:4], "big") for _, data in sorted(arrivals, key=lambda arrival: arrival[0])]


def test_a_good_link_delays_and_does_nothing_else() -> None:
    _, arrivals = send_many(LinkModel(delay_us=7_000), count=5)
    assert [at_us for at_us, _ in arrivals] == [7_000, 8_000, 9_000, 10_000, 11_000]


def test_jitter_keeps_the_order() -> None:
    _, arrivals = send_many(LinkModel(jitter_us=50_000))
    assert numbers(arrivals) == list(range(2_000))
    assert len({at_us % 1_000 for at_us, _ in arrivals}) > 100


def test_loss_and_duplication_are_as_frequent_as_told() -> None:
    _, lossy = send_many(LinkModel(loss=0.2))
    assert 1_500 < len(lossy) < 1_700
    _, doubled = send_many(LinkModel(duplicate=0.2))
    assert 2_300 < len(doubled) < 2_500


def test_bursts_lose_packets_in_a_row() -> None:
    _, arrivals = send_many(LinkModel(burst_begin=0.01, burst_packets=20))
    got = numbers(arrivals)
    longest = max(after - before for before, after in pairwise(got))
    assert 1_000 < len(got) < 1_950
    assert longest > 10


def test_reordered_packets_come_later() -> None:
    _, arrivals = send_many(LinkModel(reorder=0.1, reorder_us=30_000))
    got = numbers(arrivals)
    assert sorted(got) == list(range(2_000))
    assert got != sorted(got)


def test_a_limited_rate_spaces_packets_and_drops_what_does_not_fit_the_queue() -> None:
    link, arrivals = send_many(LinkModel(delay_us=0, rate_bytes_per_s=128_000, queue_packets=10), count=50, gap_us=0)
    assert link.counts.overflowed == 40
    assert [at_us for at_us, _ in arrivals] == [1_000 * number for number in range(1, 11)]


def test_packets_beyond_the_mtu_vanish() -> None:
    link, arrivals = send_many(LinkModel(mtu_bytes=1_000), count=3, size=973)
    assert (arrivals, link.counts.oversize) == ([], 3)
    assert len(send_many(LinkModel(mtu_bytes=1_000), count=3, size=972)[1]) == 3


def test_replayed_packets_are_old_ones() -> None:
    link, arrivals = send_many(LinkModel(replay=0.3))
    assert link.counts.replayed > 500
    assert sorted(set(numbers(arrivals))) == list(range(2_000))
    assert len(arrivals) == 2_000 + link.counts.replayed


def test_coalesced_arrivals_come_at_the_same_instants() -> None:
    _, arrivals = send_many(LinkModel(coalesce_us=10_000), count=100)
    assert {at_us % 10_000 for at_us, _ in arrivals} == {0}


def test_a_damaged_packet_differs_and_is_marked() -> None:
    rng, packet = Random(3), Datagram(FROM, TO, bytes(50))
    copies = [damaged(packet, rng) for _ in range(100)]
    assert all(copy.tampered for copy in copies)
    assert sum(copy.data != packet.data for copy in copies) > 90
    assert damaged(Datagram(FROM, TO, b""), rng).tampered


def test_a_link_that_is_down_carries_nothing_until_it_is_calm() -> None:
    link = Link(LinkModel(loss=1.0), Random(1), up=False)
    assert link.send(Datagram(FROM, TO, b"x"), 0) == []
    link.calm(5)
    assert [at_us for at_us, _ in link.send(Datagram(FROM, TO, b"x"), 100)] == [105]
