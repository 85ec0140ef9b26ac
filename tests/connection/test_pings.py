"""Round trips on request: the peer's library answers at once, and each answer is told from the others."""

from __future__ import annotations

import pytest

from peergram.config import PING_ANSWERS_KEPT
from peergram.connection.flow import Flow
from peergram.connection.in_flight import PING_UNIT, REPORTS
from peergram.events import PingAnswer, SendFlags
from peergram.timing import NEVER
from tests.connection.pair import Pair

WAY_US = 30_000


class Path:
    """A way of 30 ms that loses what it is told to lose."""

    def __init__(self) -> None:
        self.loses_client = False
        self.loses_server = False

    def __call__(self, from_client: bool, packet: bytes, now_us: int) -> list[int]:
        return [] if (self.loses_client if from_client else self.loses_server) else [WAY_US]


def quiet_pair(path: Path) -> tuple[Pair, Flow]:
    """Up for a while, with nothing under way."""
    pair = Pair(network=path)
    pair.run(2_000_000)
    assert pair.client.flow is not None
    return pair, pair.client.flow


@pytest.mark.parametrize("own_peer", [True, False], ids=["an own peer", "a reference peer"])
def test_a_ping_is_answered_at_once_and_no_application_sees_it(own_peer: bool) -> None:
    pair, flow = quiet_pair(Path())
    flow.own_peer = own_peer
    pair.client.ping()
    pair.run(2 * WAY_US)
    assert flow.pings.answers == (PingAnswer(1, 2 * WAY_US),)
    assert pair.delivered == {True: [], False: []}


def test_a_lost_ping_has_no_answer_and_the_next_one_has_its_own() -> None:
    path = Path()
    pair, flow = quiet_pair(path)
    path.loses_client = True
    pair.client.ping()
    pair.run(1_000)
    path.loses_client = False
    pair.run(1_000_000)
    assert not flow.pings.answers
    pair.client.ping()
    pair.run(2 * WAY_US)
    assert flow.pings.answers == (PingAnswer(2, 2 * WAY_US),)
    assert flow.pings.asked == 2


def test_a_ping_whose_answer_is_lost_counts_as_unanswered() -> None:
    path = Path()
    pair, flow = quiet_pair(path)
    path.loses_server = True
    pair.client.ping()
    pair.run(WAY_US)
    pair.client.ping()
    pair.run(1_000)
    path.loses_server = False
    pair.run(1_000_000)
    assert [answer.number for answer in flow.pings.answers] == [2]


def test_pings_under_way_together_are_told_apart() -> None:
    pair, flow = quiet_pair(Path())
    for _ in range(5):
        pair.client.ping()
        pair.run(15_000)
    pair.run(2 * WAY_US)
    assert flow.pings.answers == tuple(PingAnswer(number, 2 * WAY_US) for number in range(1, 6))


def test_pings_among_messages_are_answered_as_quickly() -> None:
    pair, flow = quiet_pair(Path())
    for _ in range(100):
        pair.client.send_message(bytes(5_000), SendFlags.RELIABLE, 0, pair.now_us)
        pair.run(10_000)
    pair.client.ping()
    pair.run(2 * WAY_US + 1_000)
    assert [answer.number for answer in flow.pings.answers] == [1]
    assert flow.pings.answers[0].round_trip_us <= 2 * WAY_US + 1_000


def test_only_the_latest_answers_are_kept() -> None:
    pair, flow = quiet_pair(Path())
    for _ in range(PING_ANSWERS_KEPT + 3):
        pair.client.ping()
        pair.run(100_000)
    assert [answer.number for answer in flow.pings.answers] == list(range(4, PING_ANSWERS_KEPT + 4))


def test_what_is_asked_before_the_handshake_is_done_is_not_counted() -> None:
    pair = Pair(network=Path(), start=False)
    pair.client.ping()
    pair.run(2_000_000)
    assert pair.client.flow is not None
    assert (pair.client.flow.pings.asked, pair.client.flow.pings.answers) == (0, ())


def test_a_statistics_report_and_a_ping_share_a_packet() -> None:
    pair, flow = quiet_pair(Path())
    pair.client.send_message(b"traffic", SendFlags.RELIABLE, 0, pair.now_us)
    pair.run(6_000_000)
    pair.client.ping()
    pair.run(1_000)
    carries = flow.in_flight.open_packets()[-1].carries
    assert carries & REPORTS
    assert carries >= PING_UNIT
    assert flow.stats.forced_at_us == NEVER, "the report is under way"
    pair.run(2 * WAY_US)
    assert [answer.number for answer in flow.pings.answers] == [1]
    assert flow.stats.forced_at_us != NEVER, "and has arrived"
